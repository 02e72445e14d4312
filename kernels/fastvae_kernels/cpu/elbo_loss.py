"""`elbo_loss` on CPUs: value and gradient of a tile of entries in one pass over it, while it lies in a core's cache.

Eager autograd makes a pass of its own over memory for each of a dozen operations, most of them into new memory, whose
first use costs as much again. Here what lies between is of one tile; only the gradient is new.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layout import empty_rows, flat_rows, shared_gradient
from ..reference.precision import accumulation_dtype
from .elbo_tiles import SCORES, Tile

__all__ = ["elbo_loss", "elbo_loss_backward"]

# Entries at a time: in the caches, and so many that what Python and PyTorch add is little. Several threads wait for
# each other after every operation, so that each has more.
_TILE = 262144
_TILE_OF_SEVERAL = 2 * _TILE

# row tile, column tile, sample, rows, columns
_Place = tuple[int, int, int, slice, slice]


@dataclass(frozen=True)
class _Sweep:
    """Operands as rows, and results to fill; a pass goes over all of them, tile by tile, in any order.

    output: [samples, n, dim]; data, mask: [n, dim]; logvar: as output, [dim] or []. weight: of a row's score in the
    loss, a number or [samples, n, 1]. of_output: as output, or None. of_logvar: as output; of a logvar that rows share
    a sum for each tile of rows, [row tiles, dim]; or None. sums: [column tiles, samples, n], or None.
    """

    likelihood: str
    output: Tensor
    data: Tensor
    logvar: Tensor | None
    mask: Tensor | None
    weight: float | Tensor = 1.0
    of_output: Tensor | None = None
    of_logvar: Tensor | None = None
    sums: Tensor | None = None

    def places(self) -> Iterator[_Place]:
        """Every tile's."""
        samples, n, dim = self.output.shape
        rows, columns = _tile_shape(dim)
        starts = [(sample, row) for sample in range(samples) for row in range(0, n, rows)]
        for row_tile, (sample, row) in enumerate(starts):
            for column_tile, column in enumerate(range(0, dim, columns)):
                yield row_tile, column_tile, sample, slice(row, row + rows), slice(column, column + columns)

    def visit(self, place: _Place, scratch: Tensor) -> None:
        """The results of one tile; scratch [2, entries]."""
        row_tile, column_tile, sample, rows, columns = place
        acc = scratch.dtype

        def of(x: Tensor) -> Tensor:
            return (x[sample, rows, columns] if x.dim() == 3 else x[rows, columns]).to(acc).contiguous()

        output, logvar, of_logvar = of(self.output), self.logvar, self.of_logvar
        if logvar is not None:
            logvar = of(logvar) if logvar.dim() > 1 else (logvar[columns] if logvar.dim() else logvar).to(acc)
        if of_logvar is not None:
            of_logvar = of_logvar[sample, rows, columns] if of_logvar.dim() == 3 else of_logvar[row_tile, columns]
        sums = SCORES[self.likelihood](
            Tile(
                output,
                of(self.data),
                logvar,
                None if self.mask is None else self.mask[rows, columns],
                self.weight if isinstance(self.weight, float) else self.weight[sample, rows],
                None if self.of_output is None else self.of_output[sample, rows, columns],
                of_logvar,
                self.sums is not None,
                (scratch[0, : output.numel()].view(output.shape), scratch[1, : output.numel()].view(output.shape)),
            )
        )
        if self.sums is not None and sums is not None:
            self.sums[column_tile, sample, rows] = sums

    def run(self) -> None:
        """All results."""
        rows, columns = _tile_shape(self.output.shape[2])
        size = min(rows * columns, self.output[:1].numel())
        scratch = self.output.new_empty(2, size, dtype=accumulation_dtype(self.output.dtype))
        with torch.no_grad():
            for place in self.places():
                self.visit(place, scratch)


def _tile_shape(dim: int) -> tuple[int, int]:
    """Rows and columns of a tile, where rows have `dim` entries."""
    threads = torch.get_num_threads()
    tile = _TILE if threads == 1 else _TILE_OF_SEVERAL * threads
    columns = min(max(dim, 1), tile)
    return tile // columns, columns


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _swept(
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
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """One pass over tensors of any layout -> sums, gradients by output and by output_logvar; None what is not wanted.

    Sums are [column tiles, samples, rows]. Unless something is wanted by row, or shared by rows, all rows of a sample
    count as one: then tiles are all alike.
    """
    n, acc = data.shape[0], accumulation_dtype(output.dtype)
    samples = output.shape[0] // max(n, 1)
    o, x, m = (None if t is None else flat_rows(output, t.detach()) for t in (output, data, mask))
    assert o is not None
    assert x is not None
    v = None if output_logvar is None else output_logvar.detach()
    v = flat_rows(output, v) if v is not None and v.dim() else v
    shared = v is not None and (v.dim() == 1 or (v.dim() == 0 and logvar_gradient))
    joined = not by_row and not shared and all(t is None or t.is_contiguous() for t in (o, x, v, m))
    shape = (samples, 1, n * o.shape[1]) if joined else (samples, n, o.shape[1])
    flat, of_output = empty_rows(output, output.dtype) if gradient else (None, None)
    flat_logvar = of_logvar = None
    if logvar_gradient and v is not None:
        if shared:
            flat_logvar = v.new_empty(samples * _ceil_div(n, _tile_shape(o.shape[1])[0]), o.shape[1], dtype=acc)
        else:
            flat_logvar, of_logvar = empty_rows(output, v.dtype)
            flat_logvar = flat_logvar.view(shape)
    columns = _ceil_div(shape[2], _tile_shape(shape[2])[1])
    sums = o.new_zeros(columns, *shape[:2], dtype=acc) if value else None
    _Sweep(
        likelihood,
        o.view(shape),
        x.view(shape[1:]),
        v.view(shape) if v is not None and v.dim() == 2 else v,
        None if m is None else m.view(shape[1:]),
        weight,
        None if flat is None else flat.view(shape),
        flat_logvar,
        sums,
    ).run()
    if shared and flat_logvar is not None and v is not None:
        of_logvar = shared_gradient(flat_logvar, output, v)
    return sums, of_output, of_logvar


def _divergence(mean: Tensor, logvar: Tensor, by_dimension: bool) -> Tensor:
    """The KL from the prior, as the reference defines it, in three passes over what the caches hold."""
    acc = accumulation_dtype(mean.dtype)
    m, v = (t.detach().to(acc).flatten(1).contiguous() for t in (mean, logvar))
    terms = torch.expm1(v).sub_(v).addcmul_(m, m)
    return (terms.mean(0) if by_dimension else terms.sum(1)).mul_(0.5)


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
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """As the reference defines it; and, if they are to be kept, the gradients of the reconstruction."""
    rows, by_row = output.shape[0], reduction == "none"
    weight = 1 / max(rows, 1) if reduction == "mean" else 1.0
    settings = output, data, likelihood, output_logvar, mask, by_row, weight, keep
    found = None if keep_logvar else _in_one_tile(*settings)
    sums, of_output, of_logvar = found or _swept(
        *settings[:5], by_row=by_row, weight=weight, value=True, gradient=keep, logvar_gradient=keep_logvar
    )
    assert sums is not None
    kl = _divergence(mean, logvar, by_dimension)
    if by_row:
        return sums.sum(0).flatten(), kl, of_output, of_logvar
    total = sums.sum(dtype=torch.float64)
    total = total / rows if reduction == "mean" else total
    return total.to(sums.dtype), kl, of_output, of_logvar


def _in_one_tile(
    output: Tensor,
    data: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
    by_row: bool,
    weight: float,
    keep: bool,
) -> tuple[Tensor, Tensor | None, None] | None:
    """What `_swept` gives of a batch of one draw a row that is one tile as it stands, or None; small batches are quick.

    Of neither float16 nor bfloat16, nor any log-variance or mask.
    """
    count = output.numel()
    plain = output.dtype == data.dtype and output.dtype.itemsize >= 4 and output.shape == data.shape
    if output_logvar is not None or mask is not None or not plain or not 0 < count <= _TILE:
        return None
    if not output.is_contiguous() or not data.is_contiguous():
        return None
    shape = (output.shape[0] if by_row else 1, -1)
    o, of_output = output.detach().view(shape), torch.empty_like(output, requires_grad=False) if keep else None
    with torch.no_grad():
        scratch = torch.empty_like(o), torch.empty_like(o)
        gradient = None if of_output is None else of_output.view(shape)
        tile = Tile(o, data.detach().view(shape), None, None, weight, gradient, None, True, scratch)
        sums = SCORES[likelihood](tile)
    assert sums is not None
    return sums[None], of_output, None


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
    n, by_row = data.shape[0], weight.dim() > 0
    per_row = weight.to(accumulation_dtype(output.dtype)).view(output.shape[0] // max(n, 1), n, 1) if by_row else None
    _, of_output, of_logvar = _swept(
        output,
        data,
        likelihood,
        output_logvar,
        mask,
        by_row=by_row,
        value=False,
        gradient=True,
        logvar_gradient=wants_logvar,
        weight=float(weight) if per_row is None else per_row,
    )
    assert of_output is not None
    return of_output, of_logvar
