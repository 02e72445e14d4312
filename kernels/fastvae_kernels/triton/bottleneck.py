"""`bottleneck`: an encoder's last layer, its draw and a decoder's first layer, chained on chip.

At 65,536 rows of 256 bfloat16 inputs, 32 latents and 256 outputs, 33.5 MB come in and 33.5 MB go out and nothing
else moves: a program keeps all 256 outputs of its rows in registers, and 64 rows leave room for two programs on a
processor, of which one loads while the other draws.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.posterior import kl_term, std_from_logvar
from ..common.rows import tree_sum
from ..tiling import GemmConfig, gemm_config, precision_key
from .gaussian_head import HEAD_SIZES, gaussian_head, head_arguments, head_block, head_operands, noise_block
from .gemm import NARROW, ceil_div, contiguous, default_alpha, dot, row_unit, rows_of, unit_inner_stride
from .linear import finish, linear

__all__ = ["bottleneck", "bottleneck_kernel", "is_chained", "latent_block", "launch"]


@triton.jit(do_not_specialize=["n", "latent_units", "output_units", "weight_units", "alpha", *HEAD_SIZES])
def bottleneck_kernel(
    y,
    kl,
    weight,
    bias,
    n: tl.int64,
    latent_units: tl.int32,
    output_units: tl.int32,
    weight_units: tl.int64,
    alpha: tl.float32,
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
    ACTIVATION: tl.constexpr,
    FAST: tl.constexpr,
    OPERANDS: tl.constexpr,
    LATENT_UNIT: tl.constexpr,
    OUTPUT_UNIT: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    PARTS: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
):
    """y [n, outputs] and kl [n] of x and weight [outputs, latent], bias [outputs] or None; see `head_block`.

    latent and weight's row stride are in units of LATENT_UNIT, outputs in units of OUTPUT_UNIT. A program owns TILE[0]
    rows and all of their outputs, of which there are at most BLOCK_OUTPUTS; to them TILE[1] latent columns at a time
    add their share, those past the latent 0. ONE_BLOCK: the first of them are all, so that the sum needs no registers
    while the head is computed. PARTS is as in `finish`.
    """
    latent = latent_units * LATENT_UNIT
    outputs = output_units * OUTPUT_UNIT
    head = (mean_weight, logvar_weight, mean_bias, logvar_bias, mean_bias_stride, logvar_bias_stride)
    units = (input_units, x_units, mean_units, logvar_units)
    first_row = tl.program_id(0).to(tl.int64) * TILE[0]
    row = first_row + tl.arange(0, TILE[0])
    of_weight = rows_of(weight, 0, outputs, tl.cast(weight_units, tl.int64) * LATENT_UNIT, BLOCK_OUTPUTS)
    total = tl.zeros((TILE[0],), tl.float32)
    acc = tl.zeros((TILE[0], BLOCK_OUTPUTS), tl.float32)
    for column in range(0, TILE[1] if ONE_BLOCK else latent, TILE[1]):
        mean, logvar = head_block(
            x, head, first_row, column, (n, latent), units, (minimum, maximum), OPERANDS, TILE
        )  # fmt: skip
        total += tree_sum(kl_term(mean, logvar))
        if DRAW:
            drawn = noise_block(row, column, (seed, start, stream), 0, TILE)
            z = tl.fma(std_from_logvar(logvar), drawn, mean)
        else:
            z = mean
        columns = column + tl.arange(0, TILE[1])[None, :]
        w = tl.load(of_weight + columns, mask=columns < latent, other=0.0)
        acc = dot(z.to(w.dtype), w, acc, OPERANDS)
    finish(
        acc, first_row, 0, (n, outputs), (bias, None, None, None), 0, alpha, y,
        "memory", ACTIVATION, FAST, (TILE[0], BLOCK_OUTPUTS), PARTS,
    )  # fmt: skip
    tl.store(kl + row, total, mask=row < n)


def latent_block(latent: int, config: GemmConfig) -> int:
    """How many latent columns are computed at a time: all if that is twice config.block_latent or less."""
    whole = max(triton.next_power_of_2(latent), 16)
    return whole if whole <= 2 * config.block_latent else config.block_latent


def launch(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    kl: Tensor,
    activation: str,
    alpha: float | None,
    seed: int | None,
    start: int,
    stream: int,
    minimum: float | None,
    maximum: float | None,
    precision: str,
    *,
    config: GemmConfig,
) -> None:
    """Fill y [n, outputs] and kl [n] of float32, both contiguous; outputs at most config.block_columns.

    x and the weights: any row stride, unit inner stride. The head's biases: any stride; bias: contiguous.
    """
    n, outputs = y.shape
    assert outputs <= config.block_columns
    latent = weight.shape[1]
    layout = head_operands(x, mean_weight, logvar_weight, precision, config.block_inputs)
    latent_unit, output_unit = row_unit(latent, weight.stride(0)), row_unit(outputs)
    block = latent_block(latent, config)
    head = (x, mean_weight, mean_bias, logvar_weight, logvar_bias)
    bottleneck_kernel[(ceil_div(n, config.block_rows),)](
        y,
        kl,
        weight,
        bias,
        n,
        latent // latent_unit,
        outputs // output_unit,
        weight.stride(0) // latent_unit,
        default_alpha(activation) if alpha is None else alpha,
        *head_arguments(*head, seed, start, stream, minimum, maximum, layout.unit),
        DRAW=seed is not None,
        ACTIVATION=activation,
        FAST=y.dtype in NARROW,
        OPERANDS=tuple(layout),
        LATENT_UNIT=latent_unit,
        OUTPUT_UNIT=output_unit,
        TILE=(config.block_rows, block, config.block_inputs),
        BLOCK_OUTPUTS=config.block_columns,
        PARTS=config.parts,
        ONE_BLOCK=0 < latent <= block,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


_BLOCKS = 4
"""In how many blocks of the latent, each of which reads x again, the chain still beats a z that goes through memory.

At 65,536 rows of 256 bfloat16 inputs and 128 latents, reading x three more times from an H200's L2 cache takes about
as long as moving z to memory and back.
"""


def is_chained(latent: int, outputs: int, config: GemmConfig) -> bool:
    """Whether layers of these widths run as one kernel."""
    return 0 < outputs <= config.block_columns and ceil_div(latent, latent_block(latent, config)) <= _BLOCKS


def bottleneck(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    alpha: float | None,
    seed: int | None,
    start: int,
    stream: int,
    minimum: float | None,
    maximum: float | None,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """As the reference defines it. Wide layers run as `gaussian_head` and `linear`, which their widths alone decide."""
    (n, inputs), (outputs, latent) = x.shape, weight.shape
    config = gemm_config("bottleneck", outputs, inputs, precision_key(x.dtype, precision), x.device)
    head = (x, mean_weight, mean_bias, logvar_weight, logvar_bias)
    if not is_chained(latent, outputs, config):
        z, kl, _, _ = gaussian_head(*head, seed, start, stream, None, minimum, maximum, False, precision)
        return linear(z, weight, bias, None, activation, alpha, precision, None, None, x.dtype), kl
    y = x.new_empty(n, outputs)
    kl = torch.empty(n, dtype=torch.float32, device=x.device)
    if n:
        x, mean_weight, logvar_weight, weight = (unit_inner_stride(t) for t in (x, mean_weight, logvar_weight, weight))
        layers = (x, mean_weight, mean_bias, logvar_weight, logvar_bias, weight, contiguous(bias))
        noise = (seed, start, stream)
        launch(*layers, y, kl, activation, alpha, *noise, minimum, maximum, precision, config=config)
    return y, kl
