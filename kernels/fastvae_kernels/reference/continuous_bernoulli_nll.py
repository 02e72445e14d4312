"""Defines `continuous_bernoulli_nll`: the negative log-likelihood of data under continuous Bernoullis."""

import torch
from torch import Tensor

from .precision import accumulation_dtype
from .rows import split_samples, sum_rows

__all__ = ["continuous_bernoulli_nll"]


def continuous_bernoulli_nll(logits: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """Σ log((exp(l) - 1) / l) - x l over all axes but 0; logits [s*n, ...], x and mask [n, ...] -> [s*n].

    Summed as (max(l, 0) - x l) + log((1 - exp(-|l|)) / |l|), whose last term is 0 at l = 0.
    """
    acc = accumulation_dtype(logits.dtype)
    if logits.numel() == 0:
        return torch.zeros(logits.shape[0], dtype=acc, device=logits.device)
    logits = split_samples(logits.to(acc), x.shape[0])
    nll = logits.clamp_min(0).addcmul_(logits, x.to(acc), value=-1)
    size = logits.abs().clamp_min_(1e-30)
    nll += torch.expm1(-size).neg_().div_(size).log_()
    return sum_rows(nll, mask)
