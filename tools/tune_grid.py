"""What tools/tune.py tries, how it decides, and how it files what it found: all that needs no GPU."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from fastvae_kernels.parts import Part
from fastvae_kernels.tiling import (
    REFERENCE_ROWS,
    GemmConfig,
    best_conv_tile,
    best_tile,
    element_bytes,
    predicted_seconds,
)

__all__ = [
    "LAYERS",
    "PRECISIONS",
    "TAPS",
    "Layer",
    "Timing",
    "candidates",
    "config_fields",
    "default_tile",
    "file_text",
    "is_gain",
    "known",
    "predicted",
    "record",
    "write",
]


@dataclass(frozen=True)
class Layer:
    """A product to tune: weight [outputs, inputs] of `op` in a precision as of `tiling.precision_key`.

    A convolution is one of 3x3 taps of stride 1, its inputs those of all taps.
    """

    op: str
    outputs: int
    inputs: int
    precision: str


@dataclass(frozen=True)
class Timing:
    """Microseconds of repeated runs: the 20th, 50th and 80th percentile."""

    p20: float
    p50: float
    p80: float


LAYERS: dict[str, tuple[tuple[int, int], ...]] = {
    "linear": ((512, 784), (256, 512), (64, 256), (32, 256), (256, 32), (512, 256), (784, 512)),
    "linear_prior": ((256, 32),),
    "linear_score": ((784, 512),),
    "conv2d": ((128, 9 * 128), (128, 9 * 256), (256, 9 * 256), (256, 9 * 512), (512, 9 * 512), (3, 9 * 128)),
}
"""Outputs and inputs of each op's layers in a VAE of widths 784, 512, 256 and 32 latents.

Of convolutions those that the decoder of an image autoencoder of 128, 256 and 512 channels has.
"""

TAPS = 9
"""Of the convolutions."""

PRECISIONS = {
    "linear": ("bf16", "tf32", "ieee", "fp8"),
    "linear_prior": ("bf16", "tf32", "ieee"),
    "linear_score": ("bf16", "tf32", "ieee", "fp8"),
    "conv2d": ("bf16", "ieee", "fp8"),
}
"""What each op multiplies in."""


def predicted(layer: Layer, config: GemmConfig, part: Part) -> float:
    """The model's time of a layer at the number of rows that tiles are chosen for, in microseconds."""
    drawn = layer.op == "linear_prior"
    sizes = (REFERENCE_ROWS, layer.outputs, layer.inputs, layer.precision)
    return 1e6 * predicted_seconds(config, *sizes, part, drawn=drawn)


def shared_bytes(layer: Layer, config: GemmConfig, part: Part) -> int:
    """Shared memory of the operands in flight and of what a TMA store sends; the compiler adds a little.

    Where the matrix units read shared memory themselves, every stage has a buffer; elsewhere one is in registers.
    """
    rows, columns, inputs = config.tile
    buffers = config.num_stages - (part.target not in ("sm_90", "sm_100"))
    result = (4 if layer.precision in ("tf32", "ieee") else 2) * rows * columns // config.parts
    stored = result if config.tma and layer.op == "linear" else 0
    return buffers * (rows + columns) * inputs * element_bytes(layer.precision) + stored


def default_tile(layer: Layer, part: Part) -> GemmConfig:
    """What the layer runs in where nothing was measured."""
    if layer.op == "conv2d":
        return best_conv_tile(layer.outputs, layer.inputs // TAPS, TAPS, layer.precision, part)
    return best_tile(layer.op, layer.outputs, layer.inputs, layer.precision, part)


def _convolution_grid(layer: Layer) -> Iterator[GemmConfig]:
    """Tiles of whole blocks of statistics, whose steps, where the channels allow it, are each all of one tap."""
    widest, channels = 128 // element_bytes(layer.precision), layer.inputs // TAPS
    depths = [depth for depth in (widest // 2, widest) if channels % depth == 0] or [widest // 2]
    for rows, columns, warps in product((128, 256), (16, 32, 64, 128, 256), (4, 8)):
        entries = rows * columns // (32 * warps)
        if 8 <= entries <= 128 and columns < max(2 * layer.outputs, 32):
            for inputs, (stages, group) in product(depths, [*product((2, 3, 4, 5), (8,)), *product((3,), (4, 16))]):
                yield GemmConfig(rows, columns, inputs, warps, stages, group, False, max(1, entries // 32))


def _grid(layer: Layer, part: Part) -> Iterator[GemmConfig]:
    if layer.op == "conv2d":
        yield from _convolution_grid(layer)
        return
    widest = 128 // element_bytes(layer.precision)
    forms = (True, False) if part.has_tma and layer.op != "linear_prior" else (False,)
    for rows, columns, warps in product((64, 128, 256), (16, 32, 64, 128, 256), (4, 8)):
        entries = rows * columns // (32 * warps)
        if 8 <= entries <= 128 and columns < max(2 * layer.outputs, 32):
            pipelines = [*product((2, 3, 4, 5), (8,)), *product((3,), (4, 16))]
            for inputs, (stages, group), tma in product((widest // 2, widest), pipelines, forms):
                yield GemmConfig(rows, columns, inputs, warps, stages, group, tma, 4 if entries > 64 else 1)


def candidates(layer: Layer, part: Part, limit: int) -> list[GemmConfig]:
    """The default choice, then the `limit` others that fit the part and are predicted to be fastest."""
    default = default_tile(layer, part)
    column_tiles = -(-layer.outputs // 16)
    fitting = [
        config
        for config in _grid(layer, part)
        if shared_bytes(layer, config, part) <= part.shared_bytes
        # Where one tile spans all columns, the order of tiles is the same for every group_rows.
        and (config.group_rows == 8 or column_tiles * 16 > config.block_columns)
    ]
    others = sorted(fitting, key=lambda config: predicted(layer, config, part))
    return [default, *[config for config in others if config != default][:limit]]


def is_gain(default: Timing, again: Timing, best: Timing) -> bool:
    """Whether a candidate is faster than the default by more than the default's runs differ from each other.

    again: the default, timed once more after all candidates.
    """
    noise = max(default.p80 - default.p20, abs(default.p50 - again.p50))
    return best.p50 < min(default.p50, again.p50) - noise


def config_fields(config: Any) -> dict[str, Any]:
    """A configuration, of any kind, as the files have it: what is at its default is left out."""
    values = {field.name: (getattr(config, field.name), field.default) for field in fields(config)}
    return {name: value for name, (value, default) in values.items() if value != default}


def known(table: dict[str, Any], device: str, layer: Layer) -> bool:
    """Whether the layer was already measured on the device."""
    rows = table.get(device, [])
    return any((r["precision"], r["outputs"], r["inputs"]) == _sizes(layer) for r in rows)


def _sizes(layer: Layer) -> tuple[str, int, int]:
    return layer.precision, layer.outputs, layer.inputs


def record(table: dict[str, Any], device: str, layer: Layer, config: GemmConfig) -> dict[str, Any]:
    """`table` with the configuration for the layer on the device, instead of what was there."""
    kept = [r for r in table.get(device, []) if (r["precision"], r["outputs"], r["inputs"]) != _sizes(layer)]
    row = dict(zip(("precision", "outputs", "inputs"), _sizes(layer), strict=True)) | {"config": config_fields(config)}
    rows = sorted([*kept, row], key=lambda r: (r["precision"], r["outputs"], r["inputs"]))
    return {**table, device: rows}


def _list_text(rows: list[dict[str, Any]], indent: str) -> str:
    return "[\n" + ",\n".join(f"{indent}  {json.dumps(row)}" for row in rows) + f"\n{indent}]"


def _value_text(value: Any) -> str:
    return _list_text(value, "    ") if isinstance(value, list) else json.dumps(value)


def file_text(table: dict[str, Any]) -> str:
    """A file of configs/: names sorted, each tile, measured layer or field of the only configuration on a line."""
    parts = []
    for name in sorted(table):
        value = table[name]
        if isinstance(value, list):
            text = _list_text(value, "  ")
        else:
            lists = sorted(value) if all(isinstance(each, list) for each in value.values()) else value
            inner = [f"    {json.dumps(each)}: {_value_text(value[each])}" for each in lists]
            text = "{\n" + ",\n".join(inner) + "\n  }"
        parts.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write(path: Path, table: dict[str, Any]) -> None:
    """Replace the file in one step, so that no reader and no interruption sees half of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(file_text(table), encoding="utf-8")
    os.replace(temporary, path)
