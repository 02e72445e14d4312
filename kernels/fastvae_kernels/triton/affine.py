"""`affine`: rows of any shape, scaled, shifted and activated in one pass."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.activation import activate
from ..errors import UnavailableError
from ..layout import empty_output, output_format
from ..tuning import PointwiseConfig, config_for
from .gemm import NARROW, ceil_div, default_alpha, row_unit

__all__ = ["LONGEST_ROW", "affine", "affine_kernel", "in_memory_order", "launch", "tile_shape"]

LONGEST_ROW = 2**31 - 2**16
"""A tile counts a row's entries in 32 bits."""


@triton.jit
def _of_columns(parameter, column, columns, every, length):
    """A parameter's numbers for these columns of a row, as [1, columns]."""
    return tl.load(parameter + column // every % length, mask=column < columns, other=0.0).to(tl.float32)[None, :]


@triton.jit(
    do_not_specialize=[
        "rows",
        "column_units",
        "row_units",
        "column_tiles",
        "scale_every",
        "scale_length",
        "shift_every",
        "shift_length",
        "alpha",
    ]
)
def affine_kernel(
    x,
    scale,
    shift,
    out,
    rows: tl.int64,
    column_units: tl.int32,
    row_units: tl.int64,
    column_tiles: tl.int32,
    scale_every: tl.int32,
    scale_length: tl.int32,
    shift_every: tl.int32,
    shift_length: tl.int32,
    alpha: tl.float32,
    UNIT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    FAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """x [rows, columns] of any row stride, out without gaps; lengths in UNIT elements. See `Where` for parameters."""
    columns = column_units * UNIT
    row = (tl.program_id(0) // column_tiles).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(0) % column_tiles * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    y = tl.load(x + row[:, None] * (row_units * UNIT) + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if scale is not None:
        y = y * _of_columns(scale, column, columns, scale_every, scale_length)
    if shift is not None:
        y = y + _of_columns(shift, column, columns, shift_every, shift_length)
    y = activate(y, alpha, ACTIVATION, FAST)
    of_out = out + row[:, None] * columns.to(tl.int64) + column[None, :]
    tl.store(of_out, y.to(out.dtype.element_ty), mask=inside)


class Where(NamedTuple):
    """Where a parameter's number for an entry of a row is: entry // every % length."""

    every: int
    length: int


def tile_shape(columns: int, config: PointwiseConfig) -> tuple[int, int]:
    """Rows and columns of a tile of rows of so many columns."""
    width = min(config.block_elements, 1 << max(columns - 1, 0).bit_length())
    return config.block_elements // width, width


def _in_order(parameter: Tensor | None, x: Tensor) -> tuple[Tensor | None, Where]:
    """The parameter in the order in which x's rows lie in memory, and where its numbers are."""
    if parameter is None:
        return None, Where(1, 1)
    channels_last = output_format(x) == torch.channels_last
    if parameter.shape == x.shape[1:]:
        ordered = parameter.permute(1, 2, 0) if channels_last else parameter
        return ordered.contiguous(), Where(1, parameter.numel())
    pixels = x.shape[2:].numel()
    return parameter.contiguous(), Where(1 if channels_last else pixels, len(parameter))


def launch(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    out: Tensor,
    where: tuple[Where, Where],
    activation: str,
    alpha: float | None,
    *,
    config: PointwiseConfig,
) -> None:
    """Fill out [n, columns], contiguous; x [n, columns] with inner stride 1; contiguous parameters."""
    n, columns = x.shape
    stride = x.stride(0) if n > 1 else 0
    unit = row_unit(columns, stride)
    rows, width = tile_shape(columns, config)
    column_tiles = ceil_div(columns, width)
    affine_kernel[(ceil_div(n, rows) * column_tiles,)](
        x,
        scale,
        shift,
        out,
        n,
        columns // unit,
        stride // unit,
        column_tiles,
        *where[0],
        *where[1],
        default_alpha(activation) if alpha is None else alpha,
        UNIT=unit,
        ACTIVATION=activation,
        FAST=out.dtype in NARROW,
        BLOCK_ROWS=rows,
        BLOCK_COLUMNS=width,
        num_warps=config.num_warps,
    )


def in_memory_order(x: Tensor) -> Tensor:
    """`x` [n, ...] as [n, columns] in the order in which the rows of its format lie in memory, inner stride 1."""
    if output_format(x) == torch.channels_last:
        x = x.permute(0, 2, 3, 1)
    columns = x.shape[1:].numel()
    dense = x if x[:1].is_contiguous() else x.contiguous()
    return dense.as_strided((len(x), columns), (dense.stride(0), 1))


def affine(x: Tensor, scale: Tensor | None, shift: Tensor | None, activation: str, alpha: float | None) -> Tensor:
    """As the reference defines it."""
    out = empty_output(x, x.shape)
    if x.shape[1:].numel() > LONGEST_ROW:
        raise UnavailableError(
            f"impl 'triton' takes rows of at most {LONGEST_ROW} entries; found shape {tuple(x.shape)}"
        )
    if out.numel():
        config = config_for("pointwise", x.device)
        assert isinstance(config, PointwiseConfig)
        (scale, of_scale), (shift, of_shift) = _in_order(scale, x), _in_order(shift, x)
        rows, results = in_memory_order(x), in_memory_order(out)
        launch(rows, scale, shift, results, (of_scale, of_shift), activation, alpha, config=config)
    return out
