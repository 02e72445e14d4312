"""`gaussian_head`: an encoder's last layer, the draw from its posterior and the KL, with both heads in one pass over x.

At 65,536 rows of 256 bfloat16 inputs and 32 latents, 33.5 MB of x outweigh all else, so a tile is as wide as the
latent: both products, the noise and the KL then happen while a tile of x that was read once is on chip.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.noise import normals
from ..common.posterior import kl_term, std_from_logvar
from ..common.rows import tree_sum
from ..tiling import GemmConfig, gemm_config, precision_key
from .gemm import Operands, ceil_div, dot, operands, row_unit, rows_of, unit_inner_stride

__all__ = [
    "HEAD_SIZES",
    "gaussian_head",
    "gaussian_head_kernel",
    "head_arguments",
    "head_block",
    "head_operands",
    "launch",
    "noise_block",
]


@triton.jit
def _add_bias(acc, bias, stride, column, known):
    if bias is not None:
        acc += tl.load(bias + column.to(tl.int64) * stride, mask=known, other=0.0).to(tl.float32)[None, :]
    return acc


@triton.jit
def head_block(x, head, first_row, column, shape, units, bounds, OPERANDS: tl.constexpr, TILE: tl.constexpr):
    """Mean and log-variance of rows first_row.. in the latent columns `column`, each float32 [TILE[0], TILE[1]].

    x [n, inputs]; head is (mean_weight, logvar_weight, mean_bias, logvar_bias, mean_bias_stride, logvar_bias_stride),
    weights [latent, inputs], biases [latent] or None; shape is (n, latent). units is (inputs, row stride of x, of
    mean_weight, of logvar_weight) in OPERANDS.unit elements. bounds is (minimum, maximum) of the log-variance, which
    NaN passes. Columns past the latent are 0 in both, the prior; rows past n repeat the last.
    """
    UNIT: tl.constexpr = OPERANDS[0]
    EVEN: tl.constexpr = OPERANDS[1]
    BLOCK_ROWS: tl.constexpr = TILE[0]
    BLOCK_COLUMNS: tl.constexpr = TILE[1]
    BLOCK_INPUTS: tl.constexpr = TILE[2]
    mean_weight, logvar_weight, mean_bias, logvar_bias, mean_bias_stride, logvar_bias_stride = head
    n, latent = shape
    minimum, maximum = bounds
    inputs = units[0] * UNIT
    at = tl.arange(0, BLOCK_INPUTS)[None, :]
    of_x = rows_of(x, first_row, n, tl.cast(units[1], tl.int64) * UNIT, BLOCK_ROWS)
    of_mean = rows_of(mean_weight, column, latent, tl.cast(units[2], tl.int64) * UNIT, BLOCK_COLUMNS)
    of_logvar = rows_of(logvar_weight, column, latent, tl.cast(units[3], tl.int64) * UNIT, BLOCK_COLUMNS)
    mean = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    logvar = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for k in range(0, inputs, BLOCK_INPUTS):
        if EVEN:
            a = tl.load(of_x + (k + at))
            m = tl.load(of_mean + (k + at))
            v = tl.load(of_logvar + (k + at))
        else:
            a = tl.load(of_x + (k + at), mask=at < inputs - k, other=0.0)
            m = tl.load(of_mean + (k + at), mask=at < inputs - k, other=0.0)
            v = tl.load(of_logvar + (k + at), mask=at < inputs - k, other=0.0)
        mean = dot(a, m, mean, OPERANDS)
        logvar = dot(a, v, logvar, OPERANDS)
    columns = column + tl.arange(0, BLOCK_COLUMNS)
    known = columns < latent
    mean = _add_bias(mean, mean_bias, mean_bias_stride, columns, known)
    logvar = _add_bias(logvar, logvar_bias, logvar_bias_stride, columns, known)
    logvar = tl.where(logvar < minimum, minimum, logvar)
    logvar = tl.where(logvar > maximum, maximum, logvar)
    return tl.where(known[None, :], mean, 0.0), tl.where(known[None, :], logvar, 0.0)


@triton.jit
def noise_block(row, column, noise, sample, TILE: tl.constexpr):
    """The normals, float32 [TILE[0], TILE[1]], that `sample_normal` gives rows `row` in the latent columns `column`.

    row [TILE[0]]; column a multiple of 4; noise is (seed, start, stream), and sample counts from stream.
    """
    seed, start, stream = noise
    quad = column // 4 + tl.arange(0, TILE[1] // 4)
    drawn = normals((row + start)[:, None], quad[None, :], seed, stream + sample)
    return tl.reshape(drawn, (TILE[0], TILE[1]))


HEAD_SIZES = [
    *("input_units", "x_units", "mean_units", "logvar_units", "mean_bias_stride", "logvar_bias_stride"),
    *("seed", "start", "stream", "minimum", "maximum"),
]
"""The scalars among the head's arguments, which kernels are not compiled for: any values share a kernel."""


@triton.jit(do_not_specialize=["n", "latent_units", "samples", *HEAD_SIZES])
def gaussian_head_kernel(
    z,
    kl,
    mean_out,
    logvar_out,
    n: tl.int64,
    latent_units: tl.int32,
    samples: tl.int64,
    x,
    mean_weight,
    logvar_weight,
    mean_bias,
    logvar_bias,
    input_units: tl.int32,
    x_units: tl.int64,
    mean_units: tl.int64,
    logvar_units: tl.int64,
    mean_bias_stride: tl.int64,
    logvar_bias_stride: tl.int64,
    seed: tl.int64,
    start: tl.int64,
    stream: tl.int64,
    minimum: tl.float32,
    maximum: tl.float32,
    DRAW: tl.constexpr,
    OPERANDS: tl.constexpr,
    LATENT_UNIT: tl.constexpr,
    TILE: tl.constexpr,
):
    """z [samples, n, latent], kl [n] and, unless None, mean_out and logvar_out [n, latent] of x; see `head_block`.

    latent is in units of LATENT_UNIT. A program owns TILE[0] rows and walks their latent TILE[1] columns at a time.
    DRAW: whether z is drawn or the mean.
    """
    latent = latent_units * LATENT_UNIT
    head = (mean_weight, logvar_weight, mean_bias, logvar_bias, mean_bias_stride, logvar_bias_stride)
    units = (input_units, x_units, mean_units, logvar_units)
    first_row = tl.program_id(0).to(tl.int64) * TILE[0]
    row = first_row + tl.arange(0, TILE[0])
    total = tl.zeros((TILE[0],), tl.float32)
    for column in range(0, latent, TILE[1]):
        mean, logvar = head_block(
            x, head, first_row, column, (n, latent), units, (minimum, maximum), OPERANDS, TILE
        )  # fmt: skip
        total += tree_sum(kl_term(mean, logvar))
        columns = column + tl.arange(0, TILE[1])
        inside = (row < n)[:, None] & (columns < latent)[None, :]
        # 32-bit offsets from a 64-bit base: half the registers of 64-bit ones.
        at = (tl.arange(0, TILE[0]) * latent)[:, None] + columns[None, :]
        if mean_out is not None:
            tl.store(mean_out + first_row * latent + at, mean.to(mean_out.dtype.element_ty), mask=inside)
            tl.store(logvar_out + first_row * latent + at, logvar.to(logvar_out.dtype.element_ty), mask=inside)
        if DRAW:
            std = std_from_logvar(logvar)
            for sample in range(samples):
                drawn = tl.fma(std, noise_block(row, column, (seed, start, stream), sample, TILE), mean)
                tl.store(z + (sample * n + first_row) * latent + at, drawn.to(z.dtype.element_ty), mask=inside)
        else:
            tl.store(z + first_row * latent + at, mean.to(z.dtype.element_ty), mask=inside)
    tl.store(kl + row, total, mask=row < n)


def head_operands(x: Tensor, mean_weight: Tensor, logvar_weight: Tensor, precision: str, block_inputs: int) -> Operands:
    """What the compiler may assume of the head's matrices, all of unit inner stride."""
    layout = operands(x, mean_weight, precision, block_inputs)
    return layout._replace(unit=row_unit(logvar_weight.stride(0), largest=layout.unit))


def head_arguments(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    seed: int | None,
    start: int,
    stream: int,
    minimum: float | None,
    maximum: float | None,
    unit: int,
) -> tuple[Any, ...]:
    """The arguments of a kernel from x to maximum. Biases may have any stride, such as an interleaved head's."""
    return (
        x,
        mean_weight,
        logvar_weight,
        mean_bias,
        logvar_bias,
        x.shape[1] // unit,
        x.stride(0) // unit,
        mean_weight.stride(0) // unit,
        logvar_weight.stride(0) // unit,
        0 if mean_bias is None else mean_bias.stride(0),
        0 if logvar_bias is None else logvar_bias.stride(0),
        0 if seed is None else seed,
        start,
        stream,
        -math.inf if minimum is None else minimum,
        math.inf if maximum is None else maximum,
    )


def launch(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    z: Tensor,
    kl: Tensor,
    mean: Tensor | None,
    logvar: Tensor | None,
    seed: int | None,
    start: int,
    stream: int,
    minimum: float | None,
    maximum: float | None,
    precision: str,
    *,
    config: GemmConfig,
) -> None:
    """Fill z [samples, n, latent], kl [n] of float32, and mean and logvar [n, latent] unless None; all contiguous.

    x and the weights: any row stride, unit inner stride. Biases: any stride. Without a seed, samples is 1.
    """
    samples, n, latent = z.shape
    layout = head_operands(x, mean_weight, logvar_weight, precision, config.block_inputs)
    head = (x, mean_weight, mean_bias, logvar_weight, logvar_bias)
    latent_unit = row_unit(latent)
    gaussian_head_kernel[(ceil_div(n, config.block_rows),)](
        z,
        kl,
        mean,
        logvar,
        n,
        latent // latent_unit,
        samples,
        *head_arguments(*head, seed, start, stream, minimum, maximum, layout.unit),
        DRAW=seed is not None,
        OPERANDS=tuple(layout),
        LATENT_UNIT=latent_unit,
        TILE=config.tile,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def gaussian_head(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    seed: int | None,
    start: int,
    stream: int,
    samples: int | None,
    minimum: float | None,
    maximum: float | None,
    posterior: bool,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the reference defines it, with each normal within testing.NORMAL_EPSILONS of it."""
    (n, inputs), latent = x.shape, mean_weight.shape[0]
    z = x.new_empty(1 if samples is None else samples, n, latent)
    kl = torch.empty(n, dtype=torch.float32, device=x.device)
    mean, logvar = (x.new_empty((n, latent) if posterior else (0,)) for _ in range(2))
    if n:
        x, mean_weight, logvar_weight = (unit_inner_stride(t) for t in (x, mean_weight, logvar_weight))
        stored: tuple[Tensor | None, Tensor | None] = (mean, logvar) if posterior else (None, None)
        config = gemm_config("gaussian_head", latent, inputs, precision_key(x.dtype, precision), x.device)
        head = (x, mean_weight, mean_bias, logvar_weight, logvar_bias)
        launch(*head, z, kl, *stored, seed, start, stream, minimum, maximum, precision, config=config)
    return (z[0] if samples is None else z), kl, mean, logvar
