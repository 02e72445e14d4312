"""Defines `gaussian_nll`: the negative log-likelihood of data under independent normals."""

import math

import torch
from torch import Tensor

from .precision import accumulation_dtype
from .rows import split_samples, sum_rows

__all__ = ["gaussian_nll", "squared_z_score"]


_PLAIN = 80.0  # exp(±80) is a normal float32


def squared_z_score(d: Tensor, logvar: Tensor) -> Tensor:
    """d² exp(-logvar) without 0 · inf: d (d exp(-logvar)) where that exponential is safe.

    Elsewhere (d exp(-logvar / 2))², both factors saturated at the largest finite number, which costs it a
    bit of accuracy but has twice the range.
    """
    largest = torch.finfo(d.dtype).max
    extreme = d.clamp(-largest, largest).mul_((logvar * -0.5).exp_().clamp_max_(largest)).square_()
    plain = d * (d * torch.exp(-logvar))
    return torch.where(logvar.abs() < _PLAIN, plain, extreme)


def gaussian_nll(mean: Tensor, logvar: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """Σ ½ (log 2π + logvar + (x - mean)² exp(-logvar)) over all axes but 0 -> [s*n].

    mean [s*n, ...]; x and mask [n, ...]; logvar of mean's shape, of shape mean.shape[1:], or a scalar.
    """
    acc = accumulation_dtype(mean.dtype)
    if mean.numel() == 0:
        return torch.zeros(mean.shape[0], dtype=acc, device=mean.device)
    n = x.shape[0]
    logvar = split_samples(logvar.to(acc), n) if logvar.dim() == mean.dim() else logvar.to(acc)
    nll = squared_z_score(x.to(acc) - split_samples(mean.to(acc), n), logvar).mul_(0.5)
    nll += logvar * 0.5
    nll += 0.5 * math.log(2 * math.pi)
    return sum_rows(nll, mask)
