"""Defines `squared_error`: the squared distance of data to a reconstruction."""

import torch
from torch import Tensor

from .precision import accumulation_dtype
from .rows import split_samples, sum_rows

__all__ = ["squared_error"]


def squared_error(output: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Σ (x - output)² over all axes but 0; output [s*n, ...], x and mask [n, ...] -> [s*n]."""
    acc = accumulation_dtype(output.dtype)
    if output.numel() == 0:
        return torch.zeros(output.shape[0], dtype=acc, device=output.device)
    difference = split_samples(output.to(acc), x.shape[0]) - x.to(acc)
    return sum_rows(difference.square_(), mask)
