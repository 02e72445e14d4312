"""Defines `student_t_nll`: the negative log-likelihood of data under independent Student's t distributions."""

import math

import torch
from torch import Tensor

from .precision import accumulation_dtype
from .rows import along_rows, split_samples, sum_rows
from .special import gamma_ratio_half

__all__ = ["student_t_nll"]

_FAR = 1e9  # beyond it 1 + r² is r² in float64


def student_t_nll(location: Tensor, log_scale: Tensor, log_df: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """Σ ½ log(ν π) + log Γ(ν/2) - log Γ((ν+1)/2) + s + ½ (ν+1) log(1 + r²) over all axes but 0 -> [s*n].

    r = (x - location) exp(-s) ν^-½. location [s*n, ...]; x and mask [n, ...]; s = log_scale and log ν = log_df each of
    location's shape, of shape location.shape[1:], or a scalar. Degrees of freedom saturate at exp(±60). Where r² would
    overflow, log r is log|x - location| - s - ½ log ν.
    """
    acc = accumulation_dtype(location.dtype)
    if location.numel() == 0:
        return torch.zeros(location.shape[0], dtype=acc, device=location.device)
    n, finfo = x.shape[0], torch.finfo(acc)
    s, log_df = (along_rows(parameter.to(acc), location, n) for parameter in (log_scale, log_df.clamp(-60, 60)))
    distance = (x.to(acc) - split_samples(location.to(acc), n)).abs_().clamp_(finfo.tiny, finfo.max)
    log_spread = s + 0.5 * log_df
    r = distance * torch.exp(-log_spread).clamp_max_(finfo.max)
    far = 2 * (distance.log_() - log_spread)
    logs = torch.where(r < _FAR, torch.log1p(r.clamp_max(_FAR).square_()), far)
    df = torch.exp(log_df)
    normaliser = 0.5 * (log_df + math.log(math.pi)) - gamma_ratio_half(0.5 * df)
    nll = logs.mul_(0.5 * (df + 1))
    nll += normaliser + s
    return sum_rows(nll, mask)
