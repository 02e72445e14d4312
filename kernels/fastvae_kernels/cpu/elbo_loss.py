"""`elbo_loss` on CPUs, in the compiled library: value and gradient of each entry in one pass over memory.

Eager autograd makes a pass of its own for each of a dozen operations, most of them into new memory, whose first use
costs as much again. Here output and data are read once, and only the gradient is written.
"""

from ctypes import byref

import torch
from torch import Tensor

from ..layout import empty_rows, flat_rows, shared_gradient
from ..reference.elbo_loss import divergence as divergence_by
from .divergence import divergence
from .library import LIKELIHOODS, NO_LOGVAR, OF_ALL, OF_COLUMN, OF_ENTRY, Loss, address, library, plain, threads_for

__all__ = ["elbo_loss", "elbo_loss_backward", "threads_of", "tile_shape"]

# Entries of a unit of work: large beside what a unit costs, small beside a batch that is worth several threads.
_TILE = 16384
# Columns of one where rows share a gradient: its sums, in float64 for each tile, are small beside rows of any length.
_SHARED_COLUMNS = 1024
# Fewer entries than this take less time than waking a thread may.
_ENTRIES_PER_THREAD = 65536


def tile_shape(columns: int, shared: bool) -> tuple[int, int]:
    """Rows and columns of a tile, where rows have so many; whether tiles add up a gradient that rows share."""
    across = min(columns, _TILE, _SHARED_COLUMNS if shared else _TILE)
    return _TILE // across, across


def threads_of(entries: int) -> int:
    """Threads for a pass over so many."""
    return threads_for(entries, _ENTRIES_PER_THREAD)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _flat(output: Tensor, x: Tensor) -> Tensor:
    """As rows whose columns are in the order of output's in memory: [m, dim], or as it is if it lies so."""
    return x if x.is_contiguous() and (output.is_contiguous() or x.dim() == 0) else flat_rows(output, x.detach())


def _scored(
    output: Tensor,
    data: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
    *,
    by_row: bool,
    value: bool,
    gradient: bool,
    logvar_gradient: bool,
    weight: float | Tensor = 1.0,
    inplace: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """One pass over tensors of any layout -> sums, gradients by output and by output_logvar; None what is not wanted.

    weight: of a row's score in the loss, a number or [samples * n]. Sums are float64, of rows [samples * n] or, unless
    `by_row`, parts of the sum over all. Unless something is wanted by row, or shared by rows, all rows of a sample
    count as one: then tiles are all alike. Each entry is read before it is written, so that gradients may be `inplace`.
    """
    if not output.numel():
        return _nothing(output, output_logvar, value, gradient, logvar_gradient)
    n, columns = data.shape[0], output.shape[1:].numel()
    rows = output.shape[0]
    o, x, v = (None if t is None else plain(_flat(output, t)) for t in (output, data, output_logvar))
    m = None if mask is None else _flat(output, mask).contiguous()
    shared = output_logvar is not None and output_logvar.dim() < output.dim()
    kind = NO_LOGVAR if v is None else OF_ENTRY if not shared else OF_COLUMN if v.dim() else OF_ALL
    if not by_row and kind != OF_COLUMN and not (shared and logvar_gradient):
        rows, columns, n = rows // n, columns * n, 1
    tile_rows, tile_columns = tile_shape(columns, shared and logvar_gradient)
    down, across = _ceil_div(rows, tile_rows), _ceil_div(columns, tile_columns)
    flat, of_output = _room(output, o, inplace) if gradient else (None, None)
    flat_logvar = of_logvar = None
    if output_logvar is not None and logvar_gradient and not shared:
        flat_logvar, of_logvar = _room(output_logvar, v, inplace, output)
    parts = output.new_empty(down, columns, dtype=torch.float64) if logvar_gradient and shared else None
    sums = output.new_empty(across, rows, dtype=torch.float64) if value else None
    scale, w = (weight, None) if isinstance(weight, float) else (1.0, plain(weight))
    tensors = o, x, v, w, m, flat, flat_logvar, parts, sums
    sizes = rows, columns, n, tile_rows, tile_columns
    call = Loss(*map(address, tensors), *sizes, LIKELIHOODS.index(likelihood), kind, scale)
    library().fastvae_elbo_loss(byref(call), threads_of(output.numel()))
    if output_logvar is not None and logvar_gradient:
        of_logvar = of_logvar if parts is None else shared_gradient(parts, output, output_logvar)
        of_logvar = None if of_logvar is None else of_logvar.to(output_logvar.dtype)
    totals = None if sums is None else sums.sum(0) if by_row else sums.flatten()
    return totals, None if of_output is None else of_output.to(output.dtype), of_logvar


def _room(x: Tensor, rows: Tensor | None, inplace: bool, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Where x's gradient goes, as `empty_rows` gives it: into x, if that may be and `rows` are x's own memory."""
    if inplace and rows is not None and rows.data_ptr() == x.data_ptr() and x.requires_grad and not x.is_leaf:
        torch.autograd.graph.increment_version(x)
        return rows.detach(), x.detach()
    return empty_rows(x if like is None else like, torch.float32)


def _nothing(
    output: Tensor, output_logvar: Tensor | None, value: bool, gradient: bool, logvar_gradient: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What `_scored` gives for no entries."""
    of_logvar = None if output_logvar is None or not logvar_gradient else torch.zeros_like(output_logvar)
    sums = output.new_zeros(output.shape[0], dtype=torch.float64) if value else None
    return sums, torch.empty_like(output) if gradient else None, of_logvar


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
    keep: bool = False,
    keep_logvar: bool = False,
    inplace: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """As the reference defines it; and, if they are to be kept, the gradients of the reconstruction."""
    rows, by_row = output.shape[0], reduction == "none"
    wanted = {"by_row": by_row, "value": True, "gradient": keep, "logvar_gradient": keep_logvar, "inplace": inplace}
    weight = 1 / max(rows, 1) if reduction == "mean" else 1.0
    sums, of_output, of_logvar = _scored(output, data, likelihood, output_logvar, mask, **wanted, weight=weight)
    assert sums is not None
    kl = divergence_by(mean.detach(), logvar.detach(), True) if by_dimension else divergence(mean, logvar)
    if not by_row:
        sums = sums.sum()
        sums = sums / rows if reduction == "mean" else sums
    return sums.to(torch.float32), kl, of_output, of_logvar


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
    by_row = weight.dim() > 0
    wanted = {"by_row": by_row, "value": False, "gradient": True, "logvar_gradient": wants_logvar}
    each = weight if by_row else float(weight)
    _, of_output, of_logvar = _scored(output, data, likelihood, output_logvar, mask, **wanted, weight=each)
    assert of_output is not None
    return of_output, of_logvar
