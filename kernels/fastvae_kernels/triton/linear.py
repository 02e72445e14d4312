"""`linear` and `linear_prior`: a matrix product whose scales, bias, activation and residual never leave the chip."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..common.activation import activate
from ..parts import part_of
from ..tiling import GemmConfig, gemm_config, precision_key
from .gemm import (
    NARROW,
    ceil_div,
    contiguous,
    default_alpha,
    on_tma,
    operands,
    product,
    row_unit,
    tile_origin,
    unit_inner_stride,
)

__all__ = ["fill", "finish", "launch", "linear", "linear_kernel", "linear_prior"]


@triton.jit
def finish(
    acc, first_row, first_column, shape, extras, residual_stride, alpha, out, SOURCE: tl.constexpr,
    ACTIVATION: tl.constexpr, FAST: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Store act(acc * scales + bias) + residual, in PARTS halves of halves to hold fewer registers.

    extras is (bias, residual, x_scale, weight_scale), each of them or None.
    """
    BLOCK_COLUMNS: tl.constexpr = TILE[1]
    if PARTS > 1:
        HALF: tl.constexpr = (TILE[0], BLOCK_COLUMNS // 2)
        left, right = tl.split(tl.permute(tl.reshape(acc, (TILE[0], 2, BLOCK_COLUMNS // 2)), (0, 2, 1)))
        finish(
            left, first_row, first_column, shape, extras, residual_stride, alpha, out,
            SOURCE, ACTIVATION, FAST, HALF, PARTS // 2,
        )  # fmt: skip
        finish(
            right, first_row, first_column + BLOCK_COLUMNS // 2, shape, extras, residual_stride, alpha, out,
            SOURCE, ACTIVATION, FAST, HALF, PARTS // 2,
        )  # fmt: skip
    else:
        bias, residual, x_scale, weight_scale = extras
        n, outputs = shape
        row = first_row + tl.arange(0, TILE[0]).to(tl.int64)
        column = first_column + tl.arange(0, BLOCK_COLUMNS)
        inside = (row < n)[:, None] & (column < outputs)[None, :]
        if x_scale is not None:
            acc *= tl.load(x_scale + row, mask=row < n, other=0.0)[:, None]
            acc *= tl.load(weight_scale + column, mask=column < outputs, other=0.0)[None, :]
        if bias is not None:
            acc += tl.load(bias + column, mask=column < outputs, other=0.0).to(tl.float32)[None, :]
        acc = activate(acc, alpha, ACTIVATION, FAST)
        if residual is not None:
            at = residual + (row * residual_stride)[:, None] + column[None, :]
            acc += tl.load(at, mask=inside, other=0.0).to(tl.float32)
        if SOURCE == "tma":
            out.store([first_row, first_column], acc.to(out.dtype))
        else:
            tl.store(out + (row * outputs)[:, None] + column[None, :], acc.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _one_tile(
    tile,
    x,
    weight,
    extras,
    out,
    shape,
    units,
    residual_stride,
    noise,
    alpha,
    SOURCE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    FAST: tl.constexpr,
    OPERANDS: tl.constexpr,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
):
    BLOCK_ROWS: tl.constexpr = TILE[0]
    BLOCK_COLUMNS: tl.constexpr = TILE[1]
    n, outputs = shape
    row_tiles = tl.cdiv(n, BLOCK_ROWS).to(tl.int32)
    row_tile, column_tile = tile_origin(tile, row_tiles, tl.cdiv(outputs, BLOCK_COLUMNS), GROUP_ROWS)
    first_row = row_tile * BLOCK_ROWS
    first_column = column_tile * BLOCK_COLUMNS
    acc = product(x, weight, (first_row, first_column), shape, units, noise, SOURCE, OPERANDS, TILE)
    finish(
        acc, first_row, first_column, shape, extras, residual_stride, alpha, out, SOURCE, ACTIVATION, FAST, TILE, PARTS
    )  # fmt: skip


_SIZES = ["n", "output_units", "input_units", "x_units", "weight_units", "residual_units"]


@triton.jit(do_not_specialize=[*_SIZES, "seed", "start", "stream", "alpha"])
def linear_kernel(
    x,
    weight,
    bias,
    residual,
    x_scale,
    weight_scale,
    out,
    n: tl.int64,
    output_units: tl.int32,
    input_units: tl.int32,
    x_units: tl.int64,
    weight_units: tl.int64,
    residual_units: tl.int64,
    seed: tl.int64,
    start: tl.int64,
    stream: tl.int64,
    alpha: tl.float32,
    SOURCE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    FAST: tl.constexpr,
    OPERANDS: tl.constexpr,
    OUTPUT_UNIT: tl.constexpr,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    PERSISTENT: tl.constexpr,
):
    """out [n, outputs] of x [n, inputs] and weight [outputs, inputs]; see `product` for SOURCE and OPERANDS.

    bias [outputs], residual [n, outputs], x_scale [n] and weight_scale [outputs], or None. outputs and the residual's
    row stride are in units of OUTPUT_UNIT. PERSISTENT: the programs share the tiles, so that the loads of the next
    tile overlap the end of the last; otherwise there is one a tile. With "tma", out is a descriptor too, of tiles as
    wide as `finish` stores at a time.
    """
    shape = (n, output_units * OUTPUT_UNIT)
    units = (input_units, x_units, weight_units)
    extras = (bias, residual, x_scale, weight_scale)
    noise = (seed, start, stream)
    residual_stride = tl.cast(residual_units, tl.int64) * OUTPUT_UNIT
    if PERSISTENT:
        tiles = tl.cdiv(n, TILE[0]).to(tl.int32) * tl.cdiv(shape[1], TILE[1])
        for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
            _one_tile(
                tile, x, weight, extras, out, shape, units, residual_stride, noise, alpha,
                SOURCE, ACTIVATION, FAST, OPERANDS, TILE, PARTS, GROUP_ROWS,
            )  # fmt: skip
    else:
        _one_tile(
            tl.program_id(0), x, weight, extras, out, shape, units, residual_stride, noise, alpha,
            SOURCE, ACTIVATION, FAST, OPERANDS, TILE, PARTS, GROUP_ROWS,
        )  # fmt: skip


_TMA_ROWS = 2048
"""From this many rows on, the tensor memory accelerator is worth its descriptors' microseconds on the host."""


def launch(
    x: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    x_scale: Tensor | None,
    weight_scale: Tensor | None,
    out: Tensor,
    activation: str,
    alpha: float | None,
    precision: str,
    noise: tuple[int, int, int] = (0, 0, 0),
    *,
    config: GemmConfig,
    tma: bool = False,
) -> None:
    """Fill out [n, outputs], contiguous; x None draws it from the prior with noise (seed, start, stream).

    x, weight and residual: any row stride, unit inner stride. bias and the scales: contiguous. tma: load by the
    tensor memory accelerator, where it can address the operands.
    """
    n, outputs = out.shape
    first = weight if x is None else x
    layout = operands(first, weight, precision, config.block_inputs)
    tma = tma and x is not None and on_tma(x, weight, out)
    residual_stride = outputs if residual is None else residual.stride(0)
    output_unit = row_unit(outputs, residual_stride)
    rows, columns, inputs = config.tile
    tiles = ceil_div(n, rows) * ceil_div(outputs, columns)
    linear_kernel[(min(part_of(out.device).processors, tiles) if tma else tiles,)](
        TensorDescriptor.from_tensor(x, [rows, inputs]) if tma else x,
        TensorDescriptor.from_tensor(weight, [columns, inputs]) if tma else weight,
        bias,
        residual,
        x_scale,
        weight_scale,
        TensorDescriptor.from_tensor(out, [rows, columns // config.parts]) if tma else out,
        n,
        outputs // output_unit,
        weight.shape[1] // layout.unit,
        first.stride(0) // layout.unit,
        weight.stride(0) // layout.unit,
        residual_stride // output_unit,
        *noise,
        default_alpha(activation) if alpha is None else alpha,
        SOURCE="prior" if x is None else "tma" if tma else "memory",
        ACTIVATION=activation,
        FAST=out.dtype in NARROW,
        OPERANDS=tuple(layout),
        OUTPUT_UNIT=output_unit,
        TILE=config.tile,
        PARTS=config.parts,
        GROUP_ROWS=config.group_rows,
        PERSISTENT=tma,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    alpha: float | None,
    precision: str,
    x_scale: Tensor | None,
    weight_scale: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    """As the reference defines it, summed over the inputs in one fixed order."""
    out = torch.empty(x.shape[0], weight.shape[0], dtype=out_dtype, device=x.device)
    fill(x, weight, bias, residual, x_scale, weight_scale, out, activation, alpha, precision)
    return out


def fill(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    x_scale: Tensor | None,
    weight_scale: Tensor | None,
    out: Tensor,
    activation: str,
    alpha: float | None,
    precision: str,
) -> None:
    """Fill out [n, outputs], contiguous, as the tiles for these widths do; other operands of any strides."""
    n, outputs = out.shape
    if out.numel() == 0:
        return
    config = gemm_config("linear", outputs, x.shape[1], precision_key(x.dtype, precision), x.device)
    launch(
        unit_inner_stride(x),
        unit_inner_stride(weight),
        contiguous(bias),
        None if residual is None else unit_inner_stride(residual),
        contiguous(x_scale),
        contiguous(weight_scale),
        out,
        activation,
        alpha,
        precision,
        config=config,
        tma=config.tma and n >= _TMA_ROWS,
    )


def linear_prior(
    n: int,
    weight: Tensor,
    bias: Tensor | None,
    seed: int,
    start: int,
    stream: int,
    activation: str,
    alpha: float | None,
    precision: str,
) -> Tensor:
    """As the reference defines it; the latents are drawn where they are multiplied, once for each column tile."""
    outputs, inputs = weight.shape
    out = torch.empty(n, outputs, dtype=weight.dtype, device=weight.device)
    if out.numel():
        config = gemm_config("linear_prior", outputs, inputs, precision_key(weight.dtype, precision), weight.device)
        weight, bias = unit_inner_stride(weight), contiguous(bias)
        noise = (seed, start, stream)
        launch(None, weight, bias, None, None, None, out, activation, alpha, precision, noise, config=config)
    return out
