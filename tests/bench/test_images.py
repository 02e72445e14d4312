"""Image autoencoders: every peer computes what diffusers does, rows say everything, and a run goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import images
from bench.image_models import IMAGE_MODELS, ImageCase, autoencoder, image_cases
from bench.image_peers import DEFAULT_PEERS, IMAGE_BUDGET, IMAGE_PEERS
from bench.peers import BASELINE, OURS, distance
from bench.prepared import AbsentError, Prepared, arrays
from bench.runner import Effort

PLAIN = (OURS, "eager channels_last")
QUICK = Effort(rounds=3, min_rounds=3, seconds=0)
SMALL_TINY: dict[str, Any] = {
    f"{role}{side}_{what}": value
    for side in ("encoder", "decoder")
    for role, what, value in (("", "block_out_channels", (6, 6)), ("num_", "blocks", (1, 2)))
}


def small_kl(size: int) -> Any:
    from diffusers import AutoencoderKL

    types = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return AutoencoderKL(**types, block_out_channels=(8, 16), norm_num_groups=4, sample_size=size)


def small_tiny(size: int) -> Any:
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(**SMALL_TINY)


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IMAGE_MODELS, "small_kl", small_kl)
    monkeypatch.setitem(IMAGE_MODELS, "small_tiny", small_tiny)


@pytest.mark.parametrize("peer", PLAIN)
@pytest.mark.parametrize("verb", ["decode", "encode"])
@pytest.mark.parametrize("name", ["small_kl", "small_tiny"])
def test_agrees_with_diffusers(name: str, verb: str, peer: str) -> None:
    _check(ImageCase(name, verb, 16, 2), peer)


@pytest.mark.parametrize(("name", "verb"), [("small_kl", "encode"), ("small_tiny", "decode")])
def test_exported_agrees_with_diffusers(name: str, verb: str) -> None:
    _check(ImageCase(name, verb, 16, 1), "ONNX Runtime")


@pytest.mark.parametrize("name", ["taesd", "small_kl"])
@pytest.mark.parametrize("verb", ["decode", "encode"])
def test_results_depend_on_what_is_given(name: str, verb: str) -> None:
    """As much as a comparison relative to the largest value needs."""
    for part in arrays(IMAGE_PEERS[BASELINE](ImageCase(name, verb, 32, 2)).check()):
        assert np.abs(part[0] - part[1]).mean() > 0.05 * np.abs(part).max()


def test_weights_are_the_same_each_time_and_leave_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first = {name: value.clone() for name, value in autoencoder("small_kl", 16).state_dict().items()}
    assert torch.equal(torch.random.get_rng_state(), before)
    autoencoder.cache_clear()
    again = autoencoder("small_kl", 16).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_nothing_is_timed_if_fastvae_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = IMAGE_PEERS[OURS]

    def wrong(case: ImageCase) -> Prepared:
        call = right(case).call
        return Prepared(call, lambda: call() * (1 + 2 * IMAGE_BUDGET))

    monkeypatch.setitem(IMAGE_PEERS, OURS, wrong)
    with pytest.raises(AssertionError, match="small_tiny-decode-16-1: fastvae differs from eager PyTorch"):
        images.measure(ImageCase("small_tiny", "decode", 16, 1), QUICK, (OURS, BASELINE))


def test_a_compiler_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: broken)
    with pytest.raises(AbsentError, match="No working"):
        IMAGE_PEERS["torch.compile"](ImageCase("small_tiny", "decode", 16, 1))
    assert "torch.compile" not in DEFAULT_PEERS


def test_a_run_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "new" / "rows.jsonl"
    command = ["--models", "small_tiny", "--sizes", "16", "--peers", BASELINE, "--seconds", "0", "--out", str(out)]
    assert images.main([*command, "--verbs", "decode"]) == 0
    (first,) = _rows(out)
    assert first["case"] == {"model": "small_tiny", "verb": "decode", "size": 16, "rows": 1}
    assert first["device"].endswith(", 1 threads")
    assert "diffusers" in first["versions"]
    assert first["rounds"] == 3
    assert first["microseconds"].keys() == {OURS, BASELINE}
    assert first["ratios"].keys() == {BASELINE}
    assert first["differences"][OURS] < IMAGE_BUDGET
    assert images.main([*command, "--resume"]) == 0
    assert [row["case"]["verb"] for row in _rows(out)] == ["decode", "encode"]


def test_sizes_that_do_not_halve_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        images.main(["--sizes", "64", "100"])
    assert "--sizes: expected multiples of 8, found 100" in capsys.readouterr().err


def test_cases() -> None:
    found = image_cases(["sd"], ["decode", "encode"], [512, 256], [1])
    assert [str(case) for case in found] == ["sd-decode-256-1", "sd-encode-256-1", "sd-decode-512-1", "sd-encode-512-1"]


def _check(case: ImageCase, peer: str) -> None:
    prepared = IMAGE_PEERS[peer](case)
    expected = IMAGE_PEERS[BASELINE](case).check()
    assert distance(prepared.check(), expected) < IMAGE_BUDGET
    parts = 2 if case.model == "small_kl" and case.verb == "encode" else 1
    assert len(arrays(prepared.call())) == len(arrays(expected)) == parts


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
