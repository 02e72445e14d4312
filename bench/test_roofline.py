"""The reference workload's fused ops do what its eager form does, and the roofline prints every line it should."""

import json
from pathlib import Path

import pytest
import torch

from bench import roofline
from bench.workloads import LATENT, VERBS, WIDTHS, make_mlp, steps


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "generate"])
def test_fused_is_eager(verb: str) -> None:
    model = make_mlp("cpu", torch.float64)
    x = torch.rand(5, WIDTHS[0], dtype=torch.float64)
    torch.testing.assert_close(VERBS[verb].fused(model, x), VERBS[verb].eager(model, x), rtol=1e-12, atol=1e-12)


def test_generate_decodes_as_eager_does() -> None:
    model, x = make_mlp("cpu", torch.float32), torch.empty(300, WIDTHS[0])
    ours, eager = VERBS["generate"].fused(model, x), VERBS["generate"].eager(model, x)
    assert ours.shape == eager.shape
    assert abs(ours.mean() - eager.mean()) < 0.02


def test_the_floors_of_the_reference_verbs() -> None:
    """784·512 + 512·256 + 2·256·32 one way, 32·256 + 256·512 + 512·784 the other; 142.8 GFLOP in all."""
    work = sum(roofline.step_cost(step).flops for step in steps("reconstruct", 65_536, torch.bfloat16))
    assert work == 2 * 65_536 * (2 * (784 * 512 + 512 * 256) + 2 * 256 * LATENT + LATENT * 256)
    assert roofline.verb_bytes("score", 65_536, "bf16") == 65_536 * (784 * 2 + 4)


def test_prints_every_verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["roofline", "--part", "sm_100", "--rows", "256"])
    roofline.main()
    printed = capsys.readouterr().out
    assert "B200" in printed
    for verb in VERBS:
        assert f"{verb} itself" in printed
    assert printed.count("sum of ops") == len(VERBS)


def test_finds_the_newest_measurement(tmp_path: Path) -> None:
    path = tmp_path / "gpu.jsonl"
    row = {"section": "kernel", "op": "linear", "shape": "8x4x2", "precision": "bf16", "device": "D"}
    rows = [{"section": "roofs"}, {**row, "microseconds": 1}, {**row, "microseconds": 2}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert roofline.measured_rows(path, None)[("linear", "8x4x2", "bf16")]["microseconds"] == 2
    assert roofline.measured_rows(path, "another") == {}
    assert roofline.measured_rows(path.with_name("none"), None) == {}
