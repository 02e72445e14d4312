"""Defines `categorical_nll`: the negative log-likelihood of one-hot rows, or of counts of categories."""

import torch
from torch import Tensor

from .counts import bounded
from .precision import accumulation_dtype
from .rows import split_samples

__all__ = ["categorical_nll"]


def categorical_nll(logits: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """-Σ x_k log softmax(l)_k over the last axis -> [s*n]; logits [s*n, k], x and mask [n, k].

    With a mask, of a one-hot row: the probability of all categories that the entries which count leave possible. If
    none of these is the 1, that is the sum of those whose entries do not count.
    """
    acc = accumulation_dtype(logits.dtype)
    if logits.numel() == 0:
        return torch.zeros(logits.shape[0], dtype=acc, device=logits.device)
    logs = torch.log_softmax(bounded(split_samples(logits.to(acc), x.shape[0])), -1)
    x = x.to(acc)
    if mask is None:
        return -(x * logs).sum(-1).flatten()
    seen = torch.where(mask, x, 0.0)
    rest = torch.logsumexp(torch.where(mask, -torch.inf, logs), -1)
    undecided = mask.any(-1) & ~mask.all(-1) & (seen.sum(-1) == 0)
    return torch.where(undecided, -rest, -(seen * logs).sum(-1)).clamp_min(0.0).add(0.0).flatten()
