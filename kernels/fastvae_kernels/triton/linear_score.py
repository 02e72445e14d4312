"""`linear_score`: a decoder's last matrix product and the score of data under it; its output is never written.

A program owns some rows and meets their columns tile by tile, adding each tile's scores to the rows' sums. Where the
rows are too few to occupy the GPU, each tile has its own program instead, and the tiles' sums are added afterwards in
the same order: which of the two ran does not show in the result.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..common.activation import activate
from ..common.likelihood import entry_score
from ..common.rows import tree_sum
from ..parts import part_of
from ..tiling import GemmConfig, gemm_config, precision_key
from .gemm import NARROW, ceil_div, contiguous, default_alpha, on_tma, operands, product, row_unit, unit_inner_stride

__all__ = ["add_pieces", "launch", "linear_score", "linear_score_kernel", "tile_scores"]


@triton.jit
def tile_scores(
    acc, row, first_column, rows, outputs, at_data, extras, alpha,
    LIKELIHOOD: tl.constexpr, ACTIVATION: tl.constexpr, FAST: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """A tile's scores summed over its columns -> [BLOCK_ROWS], in PARTS halves of halves to hold fewer registers.

    at_data is the row of data and mask that each row of the tile meets.
    """
    BLOCK_COLUMNS: tl.constexpr = TILE[1]
    if PARTS > 1:
        HALF: tl.constexpr = (TILE[0], BLOCK_COLUMNS // 2)
        halves = tl.permute(tl.reshape(acc, (TILE[0], 2, BLOCK_COLUMNS // 2)), (0, 2, 1))
        left, right = tl.split(halves)
        total = tile_scores(
            left, row, first_column, rows, outputs, at_data, extras, alpha,
            LIKELIHOOD, ACTIVATION, FAST, HALF, PARTS // 2,
        )  # fmt: skip
        total += tile_scores(
            right, row, first_column + BLOCK_COLUMNS // 2, rows, outputs, at_data, extras, alpha,
            LIKELIHOOD, ACTIVATION, FAST, HALF, PARTS // 2,
        )  # fmt: skip
    else:
        bias, data, data_stride, logvar, logvar_stride, mask, mask_stride, x_scale, weight_scale = extras
        column = first_column + tl.arange(0, BLOCK_COLUMNS)
        known = column < outputs
        if x_scale is not None:
            acc *= tl.load(x_scale + row, mask=row < rows, other=0.0)[:, None]
            acc *= tl.load(weight_scale + column, mask=known, other=0.0)[None, :]
        if bias is not None:
            acc += tl.load(bias + column, mask=known, other=0.0).to(tl.float32)[None, :]
        acc = activate(acc, alpha, ACTIVATION, FAST)
        inside = (row < rows)[:, None] & known[None, :]
        if mask is not None:
            inside &= tl.load(mask + (at_data * mask_stride)[:, None] + column[None, :], mask=inside, other=0) != 0
        x = tl.load(data + (at_data * data_stride)[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
        spread = 0.0
        if logvar is not None:
            spread = tl.load(logvar + column * logvar_stride, mask=known, other=0.0).to(tl.float32)[None, :]
        scores = entry_score(acc, spread, x, LIKELIHOOD, FAST)
        total = tree_sum(tl.where(inside, scores, 0.0))
    return total


_SIZES = ["rows", "data_rows", "output_units", "input_units", "x_units", "weight_units", "data_units", "mask_units"]


@triton.jit(do_not_specialize=[*_SIZES, "logvar_stride", "alpha"])
def linear_score_kernel(
    x,
    weight,
    bias,
    data,
    logvar,
    mask,
    x_scale,
    weight_scale,
    out,
    rows: tl.int64,
    data_rows: tl.int64,
    output_units: tl.int32,
    input_units: tl.int32,
    x_units: tl.int64,
    weight_units: tl.int64,
    data_units: tl.int64,
    mask_units: tl.int64,
    logvar_stride: tl.int32,
    alpha: tl.float32,
    SOURCE: tl.constexpr,
    LIKELIHOOD: tl.constexpr,
    ACTIVATION: tl.constexpr,
    FAST: tl.constexpr,
    OPERANDS: tl.constexpr,
    DATA_UNIT: tl.constexpr,
    TILE: tl.constexpr,
    SPLIT: tl.constexpr,
    PARTS: tl.constexpr,
):
    """out [rows], or [column tiles, rows] if SPLIT, of x [rows, inputs], weight [outputs, inputs] and data.

    data and mask [data_rows, outputs], row r of x meeting row r % data_rows; outputs and their row strides are in
    units of DATA_UNIT. bias and weight_scale [outputs], x_scale [rows], logvar [outputs] or, with stride 0, one
    number; each is None where absent. See `product` for SOURCE, the other units and OPERANDS, `tile_scores` for PARTS.
    """
    BLOCK_ROWS: tl.constexpr = TILE[0]
    BLOCK_COLUMNS: tl.constexpr = TILE[1]
    outputs = output_units * DATA_UNIT
    first_row = tl.program_id(0) * BLOCK_ROWS
    row = first_row + tl.arange(0, BLOCK_ROWS).to(tl.int64)
    at_data = row % data_rows
    shape = (rows, outputs)
    units = (input_units, x_units, weight_units)
    data_stride = tl.cast(data_units, tl.int64) * DATA_UNIT
    mask_stride = tl.cast(mask_units, tl.int64) * DATA_UNIT
    extras = (bias, data, data_stride, logvar, logvar_stride, mask, mask_stride, x_scale, weight_scale)
    if SPLIT:
        first_column = tl.program_id(1) * BLOCK_COLUMNS
        acc = product(x, weight, (first_row, first_column), shape, units, (0, 0, 0), SOURCE, OPERANDS, TILE)
        total = tile_scores(
            acc, row, first_column, rows, outputs, at_data, extras, alpha, LIKELIHOOD, ACTIVATION, FAST, TILE, PARTS
        )  # fmt: skip
        out += tl.program_id(1).to(tl.int64) * rows
    else:
        total = tl.zeros((BLOCK_ROWS,), tl.float32)
        for first_column in tl.range(0, outputs, BLOCK_COLUMNS, flatten=SOURCE == "tma"):
            acc = product(x, weight, (first_row, first_column), shape, units, (0, 0, 0), SOURCE, OPERANDS, TILE)
            total += tile_scores(
                acc, row, first_column, rows, outputs, at_data, extras, alpha, LIKELIHOOD, ACTIVATION, FAST, TILE, PARTS
            )  # fmt: skip
    tl.store(out + row, total, mask=row < rows)


@triton.jit(do_not_specialize=["rows", "pieces"])
def add_pieces_kernel(pieces_of, out, rows: tl.int64, pieces: tl.int32, BLOCK: tl.constexpr):
    """out [rows] = the sum of pieces_of [pieces, rows], from the first piece to the last."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for piece in range(pieces):
        total += tl.load(pieces_of + row + rows * piece, mask=row < rows, other=0.0)
    tl.store(out + row, total, mask=row < rows)


_BLOCK = 256
"""Rows whose pieces one program adds."""


def add_pieces(pieces_of: Tensor) -> Tensor:
    """The sum over the first axis of [pieces, rows], contiguous, from the first piece to the last."""
    pieces, rows = pieces_of.shape
    out = torch.empty(rows, dtype=torch.float32, device=pieces_of.device)
    add_pieces_kernel[(ceil_div(rows, _BLOCK),)](pieces_of, out, rows, pieces, BLOCK=_BLOCK)
    return out


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    data: Tensor,
    likelihood: str,
    logvar: Tensor | None,
    mask: Tensor | None,
    activation: str,
    alpha: float | None,
    precision: str,
    x_scale: Tensor | None,
    weight_scale: Tensor | None,
    out: Tensor,
    *,
    split: bool,
    config: GemmConfig,
    tma: bool = False,
) -> None:
    """Fill out of float32, [column tiles, rows] if `split`, else [rows].

    x, weight, data and mask (uint8): any row stride, unit inner stride. bias, logvar ([outputs] or scalar) and
    the scales: contiguous. tma: load by the tensor memory accelerator, where it can address the operands.
    """
    rows, outputs = x.shape[0], weight.shape[0]
    layout = operands(x, weight, precision, config.block_inputs)
    tma = tma and on_tma(x, weight)
    mask_stride = 0 if mask is None else mask.stride(0)
    data_unit = row_unit(outputs, data.stride(0), mask_stride)
    block_rows, block_columns, block_inputs = config.tile
    grid = (ceil_div(rows, block_rows), ceil_div(outputs, block_columns) if split else 1)
    linear_score_kernel[grid](
        TensorDescriptor.from_tensor(x, [block_rows, block_inputs]) if tma else x,
        TensorDescriptor.from_tensor(weight, [block_columns, block_inputs]) if tma else weight,
        bias,
        data,
        logvar,
        mask,
        x_scale,
        weight_scale,
        out,
        rows,
        data.shape[0],
        outputs // data_unit,
        weight.shape[1] // layout.unit,
        x.stride(0) // layout.unit,
        weight.stride(0) // layout.unit,
        data.stride(0) // data_unit,
        mask_stride // data_unit,
        0 if logvar is None or logvar.dim() == 0 else 1,
        default_alpha(activation) if alpha is None else alpha,
        SOURCE="tma" if tma else "memory",
        LIKELIHOOD=likelihood,
        ACTIVATION=activation,
        FAST=x.dtype in NARROW,
        OPERANDS=tuple(layout),
        DATA_UNIT=data_unit,
        TILE=config.tile,
        SPLIT=split,
        PARTS=config.parts,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def linear_score(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    data: Tensor,
    likelihood: str,
    logvar: Tensor | None,
    mask: Tensor | None,
    activation: str,
    alpha: float | None,
    precision: str,
    x_scale: Tensor | None,
    weight_scale: Tensor | None,
) -> Tensor:
    """As the reference defines it, summed over inputs and then over outputs in one fixed order."""
    rows, outputs = x.shape[0], weight.shape[0]
    if rows == 0 or outputs == 0:
        return torch.zeros(rows, dtype=torch.float32, device=x.device)
    config = gemm_config("linear_score", outputs, x.shape[1], precision_key(x.dtype, precision), x.device)
    row_tiles, pieces = ceil_div(rows, config.block_rows), ceil_div(outputs, config.block_columns)
    split = pieces > 1 and row_tiles < part_of(x.device).processors
    out = torch.empty((pieces, rows) if split else (rows,), dtype=torch.float32, device=x.device)
    launch(
        unit_inner_stride(x),
        unit_inner_stride(weight),
        contiguous(bias),
        unit_inner_stride(data),
        likelihood,
        contiguous(logvar),
        None if mask is None else unit_inner_stride(mask).view(torch.uint8),
        activation,
        alpha,
        precision,
        contiguous(x_scale),
        contiguous(weight_scale),
        out,
        split=split,
        config=config,
        tma=config.tma and not split,
    )
    return add_pieces(out) if split else out
