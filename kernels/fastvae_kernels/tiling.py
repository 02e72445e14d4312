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

from .parts import Part, part_of

__all__ = [
    "REFERENCE_ROWS",
    "GemmConfig",
    "Measured",
    "gemm_config",
    "precision_key",
    "predicted_seconds",
    "shipped_tiles",
]

REFERENCE_ROWS = 65_536
"""The number of rows tiles are chosen for."""

@dataclass(frozen=True)
class GemmConfig:
    """How a matrix-product kernel launches.

    A program computes block_rows x block_columns of the output, block_inputs of the sum at a time; of the tiles,
    group_rows rows share a column while it is cached. tma: large aligned operands go through the tensor memory
    accelerator, and one program a processor takes tile after tile. parts: how many pieces of a tile's columns an
    epilogue that holds much per entry works through.
    """

    block_rows: int
    block_columns: int
    block_inputs: int
    num_warps: int
    num_stages: int
    group_rows: int = 8
    tma: bool = False
    parts: int = 1

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


def predicted_seconds(config: GemmConfig, rows: int, outputs: int, inputs: int, precision: str, part: Part) -> float:
    """How long a product of rows x inputs and inputs x outputs takes in these tiles, launch excluded.

    Each processor works through its share of the tiles; a tile takes the longer of its arithmetic, at the part's rate,
    and of fetching its operands from the L2 cache. A product is never faster than memory. Padding counts as work.
    """
    steps = ceil(max(inputs, 1) / config.block_inputs)
    area = config.block_rows * config.block_columns
    arithmetic = 2 * area * config.block_inputs * part.processors / part.flops[precision]
    operands = (config.block_rows + config.block_columns) * config.block_inputs * element_bytes(precision)
    fetch = operands * part.processors / part.cache_bandwidth
    tiles = ceil(rows / config.block_rows) * ceil(outputs / config.block_columns)
    # One step fills the pipeline and one's worth of time empties the accumulators.
    busy = ceil(tiles / part.processors) * (steps + 2) * max(arithmetic, fetch)
    output_bytes = 2 if precision in ("bf16", "fp8") else 4
    moved = (rows * inputs + outputs * inputs) * element_bytes(precision) + rows * outputs * output_bytes
    return max(busy, moved / part.copy_bandwidth)


@cache
def gemm_config(op: str, outputs: int, inputs: int, precision: str, device: torch.device) -> GemmConfig:
    """The configuration of `op` for a layer of these widths: measured on this device, or predicted to be best.

    precision: a key as of `precision_key`.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    for row in measured(op, name):
        if (row.precision, row.outputs, row.inputs) == (precision, outputs, inputs):
            return row.config
    part = part_of(device)
    tiles = shipped_tiles(op, part.target)[precision]
    return min(tiles, key=lambda tile: predicted_seconds(tile, REFERENCE_ROWS, outputs, inputs, precision, part))
