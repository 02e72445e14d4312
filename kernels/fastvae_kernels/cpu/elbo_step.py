"""A step of `elbo_loss` as most are: every gradient with the value, in two calls of the compiled library.

Where a batch is small the work on its entries is less than what Python and PyTorch take to get to it. So nothing is
asked here that the caller has not asked already, and nothing is left for autograd to compute.
"""

from ctypes import byref

import torch
from torch import Tensor

from .divergence import threads_of as threads_of_divergence
from .elbo_loss import threads_of, tile_shape
from .library import LIKELIHOODS, NO_LOGVAR, OF_ENTRY, Divergence, Loss, library

__all__ = ["elbo_step"]


def _room(x: Tensor, inplace: bool) -> Tensor:
    """Where the gradient by x goes."""
    if not inplace or x.is_leaf or not x.requires_grad:
        return torch.empty_like(x)
    torch.autograd.graph.increment_version(x)
    return x.detach()


def elbo_step(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    output_logvar: Tensor | None,
    likelihood: str,
    mean_of_rows: bool,
    beta: float,
    inplace: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """(loss, reconstruction, kl), and the loss's gradients by output, mean, logvar and output_logvar.

    All float32, without gaps and not empty: output [s*n, ...], data [n, ...], mean and logvar [n, ...]; output_logvar
    of output's shape or None. The loss is per row of output, or, unless `mean_of_rows`, their sum. inplace: gradients
    by output and output_logvar take their memory, if they are no leaves.
    """
    rows, n = output.shape[0], data.shape[0]
    samples, columns = rows // n, data.numel()  # all rows of a sample count as one
    sizes = samples, columns, 1, *tile_shape(columns, False)
    of_mean, of_logvar = torch.empty_like(mean), torch.empty_like(logvar)
    of_output, v, of_output_logvar = _room(output, inplace), None, None
    if output_logvar is not None:
        v = output_logvar.data_ptr()
        of_output_logvar = _room(output_logvar, inplace) if output_logvar.requires_grad else None
    to_logvar = None if of_output_logvar is None else of_output_logvar.data_ptr()
    sums, kl = output.new_empty(samples * -(-columns // sizes[4]), dtype=torch.float64), output.new_empty(n)
    pointers = output.data_ptr(), data.data_ptr(), v, None, None, of_output.data_ptr(), to_logvar, None
    kind = NO_LOGVAR if v is None else OF_ENTRY
    scale = 1 / rows if mean_of_rows else 1.0
    call = Loss(*pointers, sums.data_ptr(), *sizes, LIKELIHOODS.index(likelihood), kind, scale)
    library().fastvae_elbo_loss(byref(call), threads_of(samples * columns))
    weight = output.new_full((n,), beta / n if mean_of_rows else beta * rows / n)
    tensors = mean, logvar, weight, of_mean, of_logvar, kl
    of_rows = Divergence(*[x.data_ptr() for x in tensors], mean.numel() // n)
    library().fastvae_divergence(byref(of_rows), n, threads_of_divergence(mean.numel()))
    total, divergence = sums.sum(), kl.mean()
    if mean_of_rows:
        total /= rows
    else:
        divergence *= rows
    reconstruction = total.to(torch.float32)
    loss = reconstruction.add(divergence, alpha=beta)
    return (loss, reconstruction, divergence), (of_output, of_mean, of_logvar, of_output_logvar)
