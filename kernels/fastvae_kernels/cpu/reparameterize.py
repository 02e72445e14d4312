"""`reparameterize` on CPUs: the reference's formula on noise drawn the fast way."""

from torch import Tensor

from ..reference.posterior import displaced, divergence
from ..reference.precision import accumulation_dtype
from .sample_normal import sample_normal

__all__ = ["reparameterize"]


def reparameterize(
    mean: Tensor, logvar: Tensor, seed: int, start: int, stream: int, samples: int | None
) -> tuple[Tensor, Tensor]:
    """Shapes and dtypes as in `reference.reparameterize`; tensors on the CPU."""
    acc = accumulation_dtype(mean.dtype)
    mean32, logvar32 = mean.to(acc), logvar.to(acc)
    n, dim = mean.shape
    noise = sample_normal(n, dim, seed, start, stream, samples, acc, mean.device)
    return displaced(mean32, logvar32, noise).to(mean.dtype), divergence(mean32, logvar32)
