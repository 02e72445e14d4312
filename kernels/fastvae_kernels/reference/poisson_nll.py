"""Defines `poisson_nll`: the negative log-likelihood of counts under independent Poissons, with extra zeros or not."""

import math

import torch
from torch import Tensor

from .counts import MOST, bounded, with_extra_zeros
from .precision import accumulation_dtype
from .rows import along_rows, split_samples, sum_rows
from .special import stirling_rest

__all__ = ["poisson_nll"]


def poisson_nll(log_rate: Tensor, zero_logits: Tensor | None, x: Tensor, mask: Tensor | None) -> Tensor:
    """Σ exp(m) - x m + log Γ(x + 1) over all axes but 0 -> [s*n]; of zeros inflated by sigmoid(zero_logits).

    log_rate m and zero_logits [s*n, ...]; x and mask [n, ...]. Summed as Loader (2000) does, x (exp(t) - 1 - t) +
    ½ log(2 π x) + δ(x) with t = m - log x and δ from Stirling's formula, in which no large terms cancel; any x >= 0.
    """
    acc = accumulation_dtype(log_rate.dtype)
    if log_rate.numel() == 0:
        return torch.zeros(log_rate.shape[0], dtype=acc, device=log_rate.device)
    n, largest = x.shape[0], torch.finfo(acc).max
    x = x.to(acc).clamp_max(MOST)
    m = bounded(split_samples(log_rate.to(acc), n))
    rate = torch.exp(m).clamp_max_(largest)
    log_x = torch.log(torch.where(x > 0, x, 1.0))
    t = m - log_x
    nll = x * (torch.expm1(t).clamp_max_(largest) - t)
    nll += 0.5 * (math.log(2 * math.pi) + log_x) + stirling_rest(log_x)
    nll = torch.where(x > 0, nll, rate)
    extra = None if zero_logits is None else along_rows(zero_logits.to(acc), log_rate, n)
    return sum_rows(with_extra_zeros(nll, rate, extra, x), mask)
