"""tools/tune.py on attention and group norms: what is tried, that it is checked, and that what is filed is taken."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from fastvae_kernels import attention_tiling, tuning
from fastvae_kernels.attention_tiling import AttentionConfig, attention_config, attention_devices, measured_attention
from fastvae_kernels.parts import PARTS
from fastvae_kernels.testing import assert_within
from fastvae_kernels.tiling import element_bytes
from fastvae_kernels.tuning import NormConfig
from tools import tune, tune_images
from tools.aot_images import attention_builds
from tools.tune_grid import Timing, config_fields, file_text
from tools.tune_images import attention_subject, norm_subject

DEVICE = "NVIDIA H100 80GB HBM3"
PART = PARTS["sm_90"]


@pytest.mark.parametrize("target", PARTS)
@pytest.mark.parametrize(("channels", "precision"), [(64, "bf16"), (512, "bf16"), (512, "ieee")])
def test_attention_is_offered_what_fits_the_part(channels: int, precision: str, target: str) -> None:
    found = attention_subject(channels, precision, PARTS[target], 100_000).candidates
    assert len(found) == len(set(found)) > 20
    assert {config.channels for config in found} == {channels}
    for config in found[1:]:
        held = config.block_queries * config.block_channels
        staged = config.num_stages * config.block_keys * (config.block_channels + config.block_values)
        assert element_bytes(precision) * (held + staged) <= PARTS[target].shared_bytes
        assert config.block_values <= channels
    assert len(attention_subject(channels, precision, PARTS[target], 5).candidates) == 6


def test_a_few_candidates_are_of_several_kinds() -> None:
    """The prediction does not put all that is small, or all that is large, first."""
    found = attention_subject(512, "bf16", PART, 80).candidates
    for name in ("block_queries", "block_keys", "num_warps", "num_stages"):
        assert len({getattr(config, name) for config in found}) > 1, name


def test_group_norms_are_offered_what_a_program_holds() -> None:
    default, *found = norm_subject(PART, 100_000).candidates
    assert default == tuning.shipped_configs("group_norm")["default"]
    assert len(found) == len(set(found)) > 50
    assert all(8 <= config.block_elements // (32 * config.num_warps) <= 64 for config in found)
    assert {(config.min_block, config.merge_elements) for config in found} == {(default.min_block, 2048)}


@pytest.mark.parametrize("precision", ["bf16", "ieee"])
def test_attention_runs_and_is_checked(precision: str) -> None:
    work = attention_subject(64, precision, PART, 1).work(True)
    check(work, AttentionConfig(64, 64, 64, 64, 32, 4, 2))
    assert work.library is not None
    assert_within(work.library(), work.exact(), work.eager())


def test_group_norms_run_and_are_checked() -> None:
    """Each into its place in one row of results."""
    work = norm_subject(PART, 1).work(True)
    check(work, NormConfig(8192, 64, 64, 64, 2048, 4, 128))


def check(work: Any, config: Any) -> None:
    interpreted = not torch.cuda.is_available()
    found = work.run(config)
    assert_within(found, work.exact(), work.eager(), interpreted=interpreted)
    with pytest.raises(AssertionError):
        assert_within(found + 1, work.exact(), work.eager(), interpreted=interpreted)


def test_what_was_measured_of_attention_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """By heads whose tile it was measured beside, and by no narrower ones; tools/aot.py compiles it."""
    table = json.loads(tune.config_path("attention").read_text(encoding="utf-8"))
    config = AttentionConfig(512, 64, 64, 512, 256, 8, 3)
    subject = attention_subject(512, "bf16", PART, 1)
    assert not subject.is_known(table, DEVICE)
    for winner in (subject.candidates[0], config):
        table = subject.record(table, DEVICE, winner)
    assert subject.is_known(table, DEVICE)
    assert table[DEVICE] == {"bf16": [config_fields(config)]}
    assert json.loads(file_text(table)) == table
    monkeypatch.setattr(attention_tiling, "_file", lambda: table)
    assert attention_devices() == (DEVICE,)
    assert measured_attention.__wrapped__(DEVICE) == {"bf16": (config,)}
    monkeypatch.setattr(attention_tiling, "measured_attention", lambda name: {"bf16": (config,)})
    device = torch.device("cpu")
    assert attention_config.__wrapped__(512, 512, "bf16", device) == config
    assert attention_config.__wrapped__(64, 64, "bf16", device).channels == 64
    assert attention_config.__wrapped__(512, 512, "ieee", device) != config
    assert any("64x64x512x256 w8 s3" in build.name for build in attention_builds("sm_90"))
    assert not any("64x64x512x256 w8 s3" in build.name for build in attention_builds("sm_80"))


def test_what_was_measured_of_group_norms_is_filed() -> None:
    table = json.loads(tune.config_path("group_norm").read_text(encoding="utf-8"))
    subject = norm_subject(PART, 1)
    assert not subject.is_known(table, DEVICE)
    table = subject.record(table, DEVICE, subject.candidates[1])
    assert subject.is_known(table, DEVICE)
    assert NormConfig(**table[DEVICE]) == subject.candidates[1]
    assert json.loads(file_text(table)) == table


def test_the_search_keeps_what_is_right_and_fastest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rehearsed with made-up times, in which the second candidate wins; one that is wrong is never timed."""
    times = iter([100.0, 50.0, 100.0, 70.0])
    monkeypatch.setattr(tune, "timing", lambda runs: Timing(*3 * (next(times),)))
    monkeypatch.setattr(tune_images, "PIXELS", 64)
    subject = attention_subject(64, "ieee", PART, 2)
    _, second, wrong = subject.candidates
    monkeypatch.setattr(tune, "why_wrong", lambda work, config: "AssertionError: off" if config == wrong else "")
    assert tune.tune(subject) == second
    printed = capsys.readouterr().out
    assert "AssertionError: off" in printed
    assert "library 70.0 us, 0.71 times as fast as what was kept" in printed


def test_a_dry_run_lists_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for op in ("attention", "group_norm"):
        monkeypatch.setattr("sys.argv", ["tune.py", "--dry-run", "--op", op, "--limit", "2"])
        assert tune.main() == 0
    printed = capsys.readouterr().out
    assert "attention of 512 channels in bf16 on sm_90" in printed
    assert "group_norm on sm_90" in printed
    monkeypatch.setattr("sys.argv", ["tune.py", "--dry-run", "--op", "attention", "--outputs", "8", "--inputs", "8"])
    with pytest.raises(SystemExit):
        tune.main()
    assert "--outputs and --inputs go together, with --op linear" in capsys.readouterr().err
