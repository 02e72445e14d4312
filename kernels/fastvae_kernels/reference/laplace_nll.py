"""Defines `laplace_nll`: the negative log-likelihood of data under independent Laplace distributions."""

import math

import torch
from torch import Tensor

from .precision import accumulation_dtype
from .rows import along_rows, split_samples, sum_rows

__all__ = ["laplace_nll"]


def laplace_nll(location: Tensor, log_scale: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """Σ log 2 + s + |x - location| exp(-s) over all axes but 0 -> [s*n].

    location [s*n, ...]; x and mask [n, ...]; log_scale s of location's shape, of shape location.shape[1:], or a scalar.
    Distance and exponential saturate at the largest finite number, so that 0 · inf never occurs.
    """
    acc = accumulation_dtype(location.dtype)
    if location.numel() == 0:
        return torch.zeros(location.shape[0], dtype=acc, device=location.device)
    largest, n = torch.finfo(acc).max, x.shape[0]
    s = along_rows(log_scale.to(acc), location, n)
    nll = (x.to(acc) - split_samples(location.to(acc), n)).abs_().clamp_max_(largest)
    nll = nll * torch.exp(-s).clamp_max_(largest)
    nll += s + math.log(2)
    return sum_rows(nll, mask)
