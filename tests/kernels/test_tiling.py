"""Which tile a layer gets: what ships fits the part, the model prefers what is cheaper, measurements come first."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fastvae_kernels import tiling
from fastvae_kernels.parts import PARTS, part_of
from fastvae_kernels.tiling import (
    REFERENCE_ROWS,
    GemmConfig,
    Measured,
    best_tile,
    conv_config,
    element_bytes,
    gemm_config,
    measured,
    precision_key,
    predicted_seconds,
    shipped_tiles,
    takes_broken_pixels,
)

GEMMS = ("linear", "linear_prior", "linear_score", "gaussian_head", "conv2d")
H200 = PARTS["sm_90"]
WIDE = GemmConfig(128, 256, 64, 8, 3)
NARROW = GemmConfig(128, 32, 64, 4, 3)


@pytest.mark.parametrize("target", PARTS)
@pytest.mark.parametrize("op", GEMMS)
def test_operand_tiles_in_flight_fit_the_shared_memory(op: str, target: str) -> None:
    for precision, tiles in shipped_tiles(op, target).items():
        if precision not in PARTS[target].flops:
            continue
        assert tiles
        for tile in tiles:
            sides = tile.block_columns + (0 if op == "linear_prior" else tile.block_rows)
            size = sides * tile.block_inputs * element_bytes(precision) * (tile.num_stages - 1)
            assert size <= PARTS[target].shared_bytes
            assert all(side & (side - 1) == 0 for side in tile.tile)


@pytest.mark.parametrize("precision", ["bf16", "tf32", "ieee", "fp8"])
def test_a_tile_is_chosen_by_the_widths_alone(precision: str) -> None:
    device = torch.device("cpu")
    for outputs, inputs in ((512, 784), (32, 256), (1, 1), (10, 4096)):
        chosen = gemm_config("linear", outputs, inputs, precision, device)
        assert chosen in shipped_tiles("linear", "sm_90")[precision]
        assert chosen == best_tile("linear", outputs, inputs, precision, H200)


@pytest.mark.parametrize("precision", ["bf16", "ieee"])
def test_a_convolution_steps_within_a_tap_where_its_channels_let_it(precision: str) -> None:
    device = torch.device("cpu")
    for outputs, channels in ((128, 64), (3, 128), (512, 96), (64, 32)):
        assert channels % conv_config(outputs, channels, 9, precision, device).block_inputs == 0
    for outputs, channels in ((128, 3), (64, 4), (7, 40)):
        assert conv_config(outputs, channels, 16, precision, device) in shipped_tiles("conv2d", "sm_90")[precision]
    for channels in (3, 6, 20):
        assert takes_broken_pixels(conv_config(512, channels, 16, "bf16", device), H200)


def test_a_block_of_statistics_lies_in_one_tile() -> None:
    """128 pixels, the most that `conv2d_statistics` takes."""
    for target in PARTS:
        assert all(tile.block_rows % 128 == 0 for tiles in shipped_tiles("conv2d", target).values() for tile in tiles)


def test_a_convolution_measured_on_the_device_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Measured("bf16", 128, 9 * 64, NARROW)
    monkeypatch.setattr(tiling, "measured", lambda op, name: (row,) if op == "conv2d" else ())
    conv_config.cache_clear()
    assert conv_config(128, 64, 9, "bf16", torch.device("cpu")) == NARROW
    assert conv_config(128, 64, 9, "ieee", torch.device("cpu")) != NARROW
    conv_config.cache_clear()


def test_the_model_counts_padding_and_traffic() -> None:
    def seconds(tile: GemmConfig, outputs: int, rows: int = REFERENCE_ROWS) -> float:
        return predicted_seconds(tile, rows, outputs, 784, "bf16", H200)

    assert seconds(WIDE, 512) < seconds(NARROW, 512)
    assert seconds(NARROW, 32) < seconds(WIDE, 32)
    assert seconds(WIDE, 257) > 1.5 * seconds(WIDE, 256)
    assert seconds(WIDE, 512, 2 * REFERENCE_ROWS) > 1.8 * seconds(WIDE, 512)
    floor = 2 * REFERENCE_ROWS * 784 * 512 / H200.flops["bf16"]
    assert seconds(WIDE, 512) > floor


def test_what_was_measured_on_the_device_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = {"precision": "bf16", "outputs": 48, "inputs": 80, "config": {**vars(NARROW), "group_rows": 3}}
    table: dict[str, Any] = {"default": {"bf16": [vars(WIDE)]}, "Some GPU": [found]}
    monkeypatch.setattr(tiling, "_file", lambda op: json.loads(json.dumps(table)))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(tiling, "part_of", lambda device: H200)
    for cached in (shipped_tiles, measured, best_tile, gemm_config):
        cached.cache_clear()
    device = torch.device("cuda", 0)
    assert measured("an_op", "Some GPU") == (Measured("bf16", 48, 80, GemmConfig(128, 32, 64, 4, 3, group_rows=3)),)
    assert gemm_config("an_op", 48, 80, "bf16", device).group_rows == 3
    assert gemm_config("an_op", 48, 81, "bf16", device) == WIDE
    for cached in (shipped_tiles, measured, best_tile, gemm_config):
        cached.cache_clear()


def test_precisions_share_lists_as_they_share_bytes() -> None:
    assert precision_key(torch.float32, "ieee") == "ieee"
    assert precision_key(torch.float32, "tf32") == "tf32"
    assert precision_key(torch.bfloat16, "ieee") == precision_key(torch.float16, "ieee") == "bf16"
    assert precision_key(torch.float8_e4m3fn, "ieee") == "fp8"
    assert [element_bytes(p) for p in ("ieee", "tf32", "bf16", "fp8")] == [4, 4, 2, 1]


@pytest.mark.parametrize(
    ("capability", "target"),
    [
        ((7, 5), "sm_80"),
        ((8, 0), "sm_80"),
        ((8, 9), "sm_80"),
        ((9, 0), "sm_90"),
        ((10, 3), "sm_100"),
        ((12, 0), "sm_120"),
    ],
)
def test_a_device_gets_its_own_or_the_nearest_older_part(
    capability: tuple[int, int], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    part_of.cache_clear()
    assert part_of(torch.device("cuda", 0)).target == target
    part_of.cache_clear()
    assert part_of(torch.device("cpu")) is H200


def test_parts_with_the_copy_engine() -> None:
    assert [target for target, part in PARTS.items() if part.has_tma] == ["sm_90", "sm_100", "sm_120"]
