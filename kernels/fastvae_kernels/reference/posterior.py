"""The Gaussian posterior: its divergence from the prior, and draws from it."""

import torch
from torch import Tensor

from .sample_normal import sample_normal

__all__ = ["displaced", "divergence", "divergence_terms", "draw"]


def divergence_terms(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp logvar) ‖ N(0, 1)) per entry; mean, logvar [n, dim] of the dtype to compute in -> [n, dim].

    ½ expm1(logvar) - ½ logvar + ½ mean², halved before anything can overflow; contiguous, so that sums are added in
    an order that does not depend on strides.
    """
    return torch.expm1(logvar).mul_(0.5).sub_(logvar * 0.5).add_(mean * 0.5 * mean).contiguous()


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp logvar) ‖ N(0, I)) per row; mean, logvar [n, dim] of the dtype to compute in -> [n]."""
    return divergence_terms(mean, logvar).sum(1)


def displaced(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """mean + exp(logvar / 2) noise, written over the noise [n, dim] or [samples, n, dim].

    The standard deviation saturates at the largest finite number, so that 0 · inf cannot occur.
    """
    std = (logvar * 0.5).exp_().clamp_max_(torch.finfo(mean.dtype).max)
    return noise.mul_(std).add_(mean)


def draw(mean: Tensor, logvar: Tensor, seed: int, start: int, stream: int, samples: int | None) -> Tensor:
    """mean + exp(logvar / 2) ε with ε from `sample_normal`; [n, dim] -> [n, dim] or [samples, n, dim]."""
    n, dim = mean.shape
    noise = sample_normal(n, dim, seed, start, stream, samples, mean.dtype, mean.device)
    return displaced(mean, logvar, noise)
