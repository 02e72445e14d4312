"""Defines `bernoulli_nll`: the negative log-likelihood of data under independent Bernoulli logits."""

import torch
from torch import Tensor

from .precision import accumulation_dtype
from .rows import split_samples, sum_rows

__all__ = ["bernoulli_nll"]


def bernoulli_nll(logits: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """Σ softplus(l) - x l over all axes but 0; logits [s*n, ...], x and mask [n, ...] -> [s*n].

    Summed as (max(l, 0) - x l) + log1p(exp(-|l|)), so that a confident right answer costs exp(-|l|), not 0.
    """
    acc = accumulation_dtype(logits.dtype)
    if logits.numel() == 0:
        return torch.zeros(logits.shape[0], dtype=acc, device=logits.device)
    logits = split_samples(logits.to(acc), x.shape[0])
    nll = logits.clamp_min(0).addcmul_(logits, x.to(acc), value=-1)
    nll += logits.abs().neg_().exp_().log1p_()
    return sum_rows(nll, mask)
