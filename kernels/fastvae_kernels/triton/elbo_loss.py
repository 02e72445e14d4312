"""`elbo_loss`: the values by the kernel of the row sums, the reconstruction's gradients by one of their own.

The gradients are computed in the backward pass, once what each row's score weighs in the loss is known. Written with
the value and multiplied by that weight later they would cross memory as often, five times in all counting what is
read, and be rounded twice: scaled losses of 16 bits, whose gradients are too small without the scale, would lose them.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.likelihood import entry_gradient
from ..layout import empty_rows, flat_rows, shared_gradient
from ..pieces import row_pieces
from ..tuning import RowScoreConfig, config_for
from .gemm import ceil_div, row_unit
from .row_scores import elbo, row_scores

__all__ = ["elbo_loss", "elbo_loss_backward", "gradient_kernel", "launch"]

_SIZES = ["rows", "n", "units", "output_units", "x_units", "logvar_units", "mask_units", "weight_step"]


@triton.jit(do_not_specialize=_SIZES)
def gradient_kernel(
    weight,
    output,
    x,
    logvar,
    mask,
    of_output,
    of_logvar,
    rows: tl.int64,
    n: tl.int64,
    units: tl.int32,
    output_units: tl.int64,
    x_units: tl.int64,
    logvar_units: tl.int64,
    mask_units: tl.int64,
    weight_step: tl.int32,
    LIKELIHOOD: tl.constexpr,
    LOGVAR: tl.constexpr,
    FAST: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Operands as in row_scores_kernel; weight: float32, one for each row, or for all if weight_step is 0.

    Fills of_output [rows, dim] and, unless None, of_logvar: [rows, dim] if LOGVAR is "row", else float32 [programs,
    dim], the sums over the rows of each program along axis 0.
    """
    dim = units * UNIT
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    data_row = row % n
    inside = (row < rows)[:, None] & (column < dim)[None, :]
    w = tl.load(weight + row * weight_step, mask=row < rows, other=0.0)[:, None]
    at_output = output + (row * output_units * UNIT)[:, None] + column[None, :]
    at_x = x + (data_row * x_units * UNIT)[:, None] + column[None, :]
    o = tl.load(at_output, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(at_x, mask=inside, other=0.0).to(tl.float32)
    if LOGVAR == "row":
        at_logvar = logvar + (row * logvar_units * UNIT)[:, None] + column[None, :]
        v = tl.load(at_logvar, mask=inside, other=0.0).to(tl.float32)
    elif LOGVAR == "shared":
        v = tl.load(logvar + column, mask=column < dim, other=0.0).to(tl.float32)[None, :]
    elif LOGVAR == "scalar":
        v = tl.load(logvar).to(tl.float32)
    else:
        v = 0.0
    counts = inside
    if mask is not None:
        at_mask = mask + (data_row * mask_units * UNIT)[:, None] + column[None, :]
        counts = inside & (tl.load(at_mask, mask=inside, other=0) != 0)
    by_output, by_logvar = entry_gradient(o, v, d, LIKELIHOOD, FAST)
    at = row[:, None] * dim + column[None, :]
    tl.store(of_output + at, (tl.where(counts, by_output, 0.0) * w).to(of_output.dtype.element_ty), mask=inside)
    if of_logvar is not None:
        by_logvar = tl.where(counts, by_logvar, 0.0) * w
        if LOGVAR == "row":
            tl.store(of_logvar + at, by_logvar.to(of_logvar.dtype.element_ty), mask=inside)
        else:
            place = tl.program_id(0).to(tl.int64) * dim + column
            tl.store(of_logvar + place, tl.sum(by_logvar, 0), mask=column < dim)


def launch(
    weight: Tensor,
    output: Tensor,
    x: Tensor,
    logvar: Tensor | None,
    mask: Tensor | None,
    of_output: Tensor,
    of_logvar: Tensor | None,
    *,
    likelihood: str,
    config: RowScoreConfig,
) -> None:
    """Fill of_output [rows, dim] and, unless None, of_logvar: [rows, dim], or [blocks of rows, dim] if rows share it.

    weight: float32, [] or [rows]; output: [rows, dim]; x: [n, dim]; mask: uint8 [n, dim]; logvar: None, [], [dim] or
    [rows, dim]. Operands of any row stride, unit inner stride; results contiguous. Neither rows nor dim is 0.
    """
    (rows, dim), n = output.shape, x.shape[0]
    cut = row_pieces(dim, config)
    kind = "none" if logvar is None else ("scalar", "shared", "row")[logvar.dim()]
    strides = [t.stride(0) if t is not None and t.dim() == 2 else 0 for t in (output, x, logvar, mask)]
    unit = row_unit(dim, *strides)
    gradient_kernel[(ceil_div(rows, cut.block_rows), ceil_div(dim, cut.block_columns))](
        weight,
        output,
        x,
        logvar,
        mask,
        of_output,
        of_logvar,
        rows,
        n,
        dim // unit,
        *(stride // unit for stride in strides),
        weight.stride(0) if weight.dim() else 0,
        LIKELIHOOD=likelihood,
        LOGVAR=kind,
        FAST=output.dtype.itemsize < 4,
        UNIT=unit,
        BLOCK_ROWS=cut.block_rows,
        BLOCK_COLUMNS=cut.block_columns,
        num_warps=config.num_warps,
    )


def elbo_loss(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
    reduction: str,
    by_dimension: bool,
) -> tuple[Tensor, Tensor | None]:
    """As the reference defines it, but no divergence by dimension."""
    if by_dimension:
        rows, kl = row_scores(likelihood, output, data, output_logvar, mask), None
    else:
        posterior = mean.flatten(1), logvar.flatten(1)
        _, rows, kl = elbo(output, data, *posterior, likelihood, output_logvar, mask)
    if reduction == "none":
        return rows, kl
    return rows.sum() if reduction == "sum" else rows.mean(), kl


def elbo_loss_backward(
    weight: Tensor,
    output: Tensor,
    data: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
    wants_logvar: bool,
) -> tuple[Tensor, Tensor | None]:
    """As the reference defines it."""
    config = config_for("row_scores", output.device)
    assert isinstance(config, RowScoreConfig)
    flat, of_output = empty_rows(output, output.dtype)
    v = output_logvar
    shared = v is not None and (v.dim() < output.dim() or v.dim() == 0)
    flat_logvar = of_logvar = None
    if wants_logvar and v is not None:
        if shared:
            blocks = ceil_div(output.shape[0], row_pieces(flat.shape[1], config).block_rows)
            flat_logvar = weight.new_zeros(blocks, flat.shape[1])
        else:
            flat_logvar, of_logvar = empty_rows(output, v.dtype)
    if output.numel():
        launch(
            weight.float(),
            flat_rows(output, output),
            flat_rows(output, data),
            v if v is None or v.dim() == 0 else flat_rows(output, v),
            None if mask is None else flat_rows(output, mask.view(torch.uint8)),
            flat,
            flat_logvar,
            likelihood=likelihood,
            config=config,
        )
    if shared and flat_logvar is not None and v is not None:
        of_logvar = shared_gradient(flat_logvar, output, v)
    return of_output, of_logvar
