"""Defines `reparameterize`: draw z from the posterior, and its divergence from the prior, in one pass."""

from torch import Tensor

from .posterior import divergence, draw
from .precision import accumulation_dtype

__all__ = ["reparameterize"]


def reparameterize(
    mean: Tensor, logvar: Tensor, seed: int, start: int, stream: int, samples: int | None
) -> tuple[Tensor, Tensor]:
    """z = mean + exp(logvar / 2) ε with ε from `sample_normal`, and KL(q ‖ N(0, I)) per row.

    mean, logvar [n, dim] -> z [n, dim] or [samples, n, dim] in their dtype; kl [n] in float32 (float64 for
    float64).
    """
    acc = accumulation_dtype(mean.dtype)
    mean32, logvar32 = mean.to(acc), logvar.to(acc)
    z = draw(mean32, logvar32, seed, start, stream, samples)
    return z.to(mean.dtype), divergence(mean32, logvar32)
