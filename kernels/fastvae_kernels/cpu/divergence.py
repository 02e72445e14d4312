"""The posterior's divergence from N(0, I) and its gradients, in the compiled library, as `elbo_loss` needs them."""

from ctypes import byref

import torch
from torch import Tensor

from .library import Divergence, address, library, plain, threads_for

__all__ = ["divergence", "divergence_gradients", "threads_of"]

# Fewer entries than this take less time than waking a thread may.
_ENTRIES_PER_THREAD = 131072


def threads_of(entries: int) -> int:
    """Threads for a pass over so many."""
    return threads_for(entries, _ENTRIES_PER_THREAD)


def _call(
    mean: Tensor,
    logvar: Tensor,
    *,
    weight: Tensor | None = None,
    to_mean: Tensor | None = None,
    to_logvar: Tensor | None = None,
    to_rows: Tensor | None = None,
) -> None:
    """Fill what is given to fill, [n, ...] or [n], in float32 without gaps."""
    count, rows = mean.numel(), mean.shape[0]
    if not count:
        return
    m, v = plain(mean), plain(logvar)
    call = Divergence(*map(address, (m, v, weight, to_mean, to_logvar, to_rows)), count // rows)
    library().fastvae_divergence(byref(call), rows, threads_of(count))


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL of each row, [n] in float32; mean and logvar [n, ...]."""
    rows = mean.new_zeros(mean.shape[0], dtype=torch.float32)
    _call(mean, logvar, to_rows=rows)
    return rows


def divergence_gradients(mean: Tensor, logvar: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Those of Σ weight · KL by mean and logvar, in their dtypes; weight [n]."""
    to_mean, to_logvar = (mean.new_empty(mean.shape, dtype=torch.float32) for _ in range(2))
    _call(mean, logvar, weight=plain(weight), to_mean=to_mean, to_logvar=to_logvar)
    return to_mean.to(mean.dtype), to_logvar.to(logvar.dtype)
