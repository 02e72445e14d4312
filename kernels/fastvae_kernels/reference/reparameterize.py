"""Defines `reparameterize`: draw z from the posterior, and its divergence from the prior, in one pass."""

import torch
from torch import Tensor

from .precision import accumulation_dtype
from .sample_normal import sample_normal

__all__ = ["reparameterize"]


def reparameterize(
    mean: Tensor, logvar: Tensor, seed: int, start: int, stream: int, samples: int | None
) -> tuple[Tensor, Tensor]:
    """z = mean + exp(logvar / 2) ε with ε from `sample_normal`, and KL(q ‖ N(0, I)) per row.

    mean, logvar [n, dim] -> z [n, dim] or [samples, n, dim] in their dtype; kl [n] in float32 (float64 for
    float64). kl = Σ ½ expm1(logvar) - ½ logvar + ½ mean², halved before anything can overflow. The standard
    deviation saturates at the largest finite number, so that 0 · inf cannot occur.
    """
    acc = accumulation_dtype(mean.dtype)
    n, dim = mean.shape
    mean32, logvar32 = mean.to(acc), logvar.to(acc)
    kl = torch.expm1(logvar32).mul_(0.5).sub_(logvar32 * 0.5).add_(mean32 * 0.5 * mean32).sum(1)
    std = (logvar32 * 0.5).exp_().clamp_max_(torch.finfo(acc).max)
    z = sample_normal(n, dim, seed, start, stream, samples, acc, mean.device).mul_(std).add_(mean32)
    return z.to(mean.dtype), kl
