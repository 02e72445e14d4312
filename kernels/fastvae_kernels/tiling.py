"""Tiles of the matrix-product kernels: frozen lists in configs/*.json, and the model that picks one for a layer.

For each op and architecture a list holds the tiles that tools/aot.py has compiled without a spill. tools/tune.py
writes, under a device's name, the one it measured fastest for a layer; where none was measured, that tile is taken
which the model below predicts to be fastest. The number of rows has no say in either: with another tile a
row could have other bits, and a row's bits must not depend on how many rows came with it.
"""

import json
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import torch

from .errors import UnavailableError
from .parts import PARTS, Part, part_of

__all__ = [
    "REFERENCE_ROWS",
    "GemmConfig",
    "Measured",
    "best_conv_tile",
    "best_tile",
    "conv_config",
    "gemm_config",
    "loads_single_entries",
    "measured",
    "measured_devices",
    "precision_key",
    "predicted_seconds",
    "shipped_tiles",
    "takes_broken_pixels",
]

REFERENCE_ROWS = 65_536
"""The number of rows tiles are chosen for."""


@dataclass(frozen=True)
class GemmConfig:
    """How a matrix-product kernel launches.

    A program computes block_rows x block_columns of the output, block_inputs of the sum at a time; of the tiles,
    group_rows rows share a column while it is cached. tma: large aligned operands go through the tensor memory
    accelerator, and one program a processor takes tile after tile. parts: how many pieces of a tile's columns an
    epilogue that holds much per entry works through. block_latent: of a product chained to another, how many columns
    of the first are computed at a time; up to twice as many if those are all.
    """

    block_rows: int
    block_columns: int
    block_inputs: int
    num_warps: int
    num_stages: int
    group_rows: int = 8
    tma: bool = False
    parts: int = 1
    block_latent: int = 0

    @property
    def tile(self) -> tuple[int, int, int]:
        """Rows, columns and inputs of a tile."""
        return self.block_rows, self.block_columns, self.block_inputs


@dataclass(frozen=True)
class Measured:
    """A configuration that tools/tune.py found fastest for one layer on one device."""

    precision: str
    outputs: int
    inputs: int
    config: GemmConfig


def _config(values: dict[str, Any]) -> GemmConfig:
    return GemmConfig(**values)


@cache
def _file(op: str) -> dict[str, Any]:
    path = Path(__file__).parent / "configs" / f"{op}.json"
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


@cache
def shipped_tiles(op: str, target: str) -> dict[str, tuple[GemmConfig, ...]]:
    """The tiles of `op` for an architecture by precision, those of "default" where it has no list of its own."""
    lists = {**_file(op)["default"], **_file(op).get(target, {})}
    return {precision: tuple(_config(values) for values in tiles) for precision, tiles in lists.items()}


def measured_devices(op: str) -> tuple[str, ...]:
    """The devices on which tools/tune.py measured `op`."""
    return tuple(name for name in _file(op) if name != "default" and name not in PARTS)


@cache
def measured(op: str, device_name: str) -> tuple[Measured, ...]:
    """What tools/tune.py found for `op` on the device of this name: nothing, on most."""
    rows = _file(op).get(device_name, ())
    return tuple(Measured(**{**row, "config": _config(row["config"])}) for row in rows)


def precision_key(dtype: torch.dtype, precision: str) -> str:
    """The list a layer's tiles are in: "ieee" or "tf32" for float32, "bf16" for both 16-bit dtypes, "fp8"."""
    if dtype == torch.float32:
        return precision
    return "fp8" if dtype == torch.float8_e4m3fn else "bf16"


def element_bytes(precision: str) -> int:
    """Bytes of one operand element."""
    return {"ieee": 4, "tf32": 4, "bf16": 2, "fp8": 1}[precision]


_TILE_SECONDS = 0.3e-6
"""Of a tile that no other work hides: the first operands' way from memory, the last results' way back."""

_STEP_SECONDS = 0.05e-6
"""Of a step that no other work hides: waiting for its operands' barrier and issuing its arithmetic, 90 cycles."""

_FINISH_OPERATIONS = 16
"""Per output, in float32 operations: scale, bias, an activation, rounding and the store's share."""

_NOISE_OPERATIONS = 80
"""Per normal drawn: 40 instructions, counted like multiply-adds as two operations each."""

_EXPOSED = 0.25
"""How much of the shorter of computing and moving is not hidden behind the longer one."""


def predicted_seconds(
    config: GemmConfig, rows: int, outputs: int, inputs: int, precision: str, part: Part, *, drawn: bool = False
) -> float:
    """How long a product of rows x inputs and inputs x outputs takes in these tiles, launch excluded.

    Each processor works through its share of the tiles. A step of a tile takes the longer of its arithmetic, at the
    part's rate, and of fetching its operands from the L2 cache; drawn inputs are not fetched, but drawn again for
    each column tile. The tile's outputs are finished at the rate of float32. Padding counts as work. Meanwhile
    operands and result move between memory and cache once. The constants above are estimates, which tools/tune.py
    holds against measurements; the choice between tiles depends little on them.
    """
    lanes = part.processors / part.flops["ieee"]
    steps = ceil(max(inputs, 1) / config.block_inputs)
    area = config.block_rows * config.block_columns
    arithmetic = 2 * area * config.block_inputs * part.processors / part.flops[precision]
    fetched = config.block_columns + (0 if drawn else config.block_rows)
    fetch = fetched * config.block_inputs * element_bytes(precision) * part.processors / part.cache_bandwidth
    step = max(arithmetic, fetch) + _STEP_SECONDS
    if drawn:
        step += _NOISE_OPERATIONS * config.block_rows * config.block_inputs * lanes
    tiles = ceil(rows / config.block_rows) * ceil(outputs / config.block_columns)
    each = steps * step + _FINISH_OPERATIONS * area * lanes + _TILE_SECONDS
    busy = ceil(tiles / part.processors) * each
    output_bytes = 2 if precision in ("bf16", "fp8") else 4
    operands = outputs * inputs + (0 if drawn else rows * inputs)
    moving = (operands * element_bytes(precision) + rows * outputs * output_bytes) / part.copy_bandwidth
    return max(busy, moving) + _EXPOSED * min(busy, moving)


def _threads(tile: GemmConfig, part: Part) -> int:
    return tile.num_warps * (32 if part.target.startswith("sm_") else 64)


_SINGLE_LOADS = 48
"""The most operand entries per step that a thread may load one by one, through registers: with 64, builds spill."""


def loads_single_entries(tile: GemmConfig, part: Part) -> bool:
    """Whether a tile can do with 16-bit rows of odd length, which no wide load and no asynchronous copy can read."""
    return (tile.block_rows + tile.block_columns) * tile.block_inputs <= _SINGLE_LOADS * _threads(tile, part)


def _check_precision(op: str, precision: str, part: Part) -> None:
    """The part multiplies in that precision."""
    if precision not in part.flops:
        found = ", ".join(name for name in part.flops if name != "fp16")
        raise UnavailableError(f"{op} on {part.target} takes {found}; found {precision}")


@cache
def best_tile(op: str, outputs: int, inputs: int, precision: str, part: Part) -> GemmConfig:
    """The shipped tile of `op` that is predicted to be fastest for a layer of these widths on a part.

    Raises UnavailableError if the part has no such precision.
    """
    _check_precision(op, precision, part)

    def seconds(tile: GemmConfig) -> float:
        drawn = op == "linear_prior"
        return predicted_seconds(tile, REFERENCE_ROWS, outputs, inputs, precision, part, drawn=drawn)

    tiles = shipped_tiles(op, part.target)[precision]
    # A chain runs in one tile that holds all outputs or, where none is so wide, not at all.
    tiles = tuple(tile for tile in tiles if not tile.block_latent or tile.block_columns >= outputs) or tiles
    odd = precision == "bf16" and inputs % 2 == 1
    return min([tile for tile in tiles if odd and loads_single_entries(tile, part)] or tiles, key=seconds)


@cache
def gemm_config(op: str, outputs: int, inputs: int, precision: str, device: torch.device) -> GemmConfig:
    """The configuration of `op` for a layer of these widths: measured on this device, or predicted to be best.

    precision: a key as of `precision_key`.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    for row in measured(op, name):
        if (row.precision, row.outputs, row.inputs) == (precision, outputs, inputs):
            return row.config
    return best_tile(op, outputs, inputs, precision, part_of(device))


_SPARING_OUTPUTS = 32
"""The most outputs of a tile that a thread may hold besides an address for every entry: with 64, builds spill."""


def takes_broken_pixels(tile: GemmConfig, part: Part) -> bool:
    """Whether a tile can do with 16-bit pixels of channels that are no multiple of 8, hence no whole 16 bytes."""
    outputs = tile.block_rows * tile.block_columns
    return loads_single_entries(tile, part) and outputs <= _SPARING_OUTPUTS * _threads(tile, part)


@cache
def best_conv_tile(outputs: int, channels: int, taps: int, precision: str, part: Part) -> GemmConfig:
    """The shipped tile that is predicted to be fastest for a convolution's groups, each output a sum over taps.

    As `best_tile` of "conv2d" with all of `taps` pixels' `channels` as inputs. But where some tiles' steps divide the
    channels, so that a step is all of one tap, only those are asked; and 16-bit pixels that are not whole units of 16
    bytes take tiles that load single entries.
    """
    _check_precision("conv2d", precision, part)
    tiles = shipped_tiles("conv2d", part.target)[precision]
    even = [tile for tile in tiles if channels % tile.block_inputs == 0]
    broken = precision == "bf16" and channels % 8 > 0
    single = [tile for tile in tiles if broken and takes_broken_pixels(tile, part)]

    def seconds(tile: GemmConfig) -> float:
        return predicted_seconds(tile, REFERENCE_ROWS, outputs, taps * channels, precision, part)

    return min(even or single or tiles, key=seconds)


@cache
def conv_config(outputs: int, channels: int, taps: int, precision: str, device: torch.device) -> GemmConfig:
    """The configuration of a convolution's groups: measured on this device, or predicted to be best."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    for row in measured("conv2d", name):
        if (row.precision, row.outputs, row.inputs) == (precision, outputs, taps * channels):
            return row.config
    return best_conv_tile(outputs, channels, taps, precision, part_of(device))
