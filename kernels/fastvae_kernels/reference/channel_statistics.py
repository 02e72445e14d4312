"""Defines `channel_statistics`: mean and spread of each channel over blocks of an image's pixels."""

import torch
from torch import Tensor

from .precision import accumulation_dtype

__all__ = ["channel_statistics"]


def _of_blocks(y: Tensor, rest: bool) -> Tensor:
    """y [n, blocks, pixels, c], of at least a pixel, which the caller owns -> [n, blocks, c, 3 if rest else 2]."""
    mean = y.mean(2, keepdim=True)
    y -= mean
    second = y.mean(2, keepdim=True)
    y -= second
    m2 = y.square_().sum(2)
    rounded = mean + second
    left = [second - (rounded - mean)] if rest else []
    return torch.stack([rounded[:, :, 0], m2, *(each[:, :, 0] for each in left)], 3)


def channel_statistics(x: Tensor, block: int, rest: bool) -> Tensor:
    """Mean and sum of squared deviations from it of x [n, c, h, w], in blocks of `block` pixels in row-major order.

    Subtracts the mean before it squares, and what rounding it left as a second one, as `group_norm` does.
    """
    acc = accumulation_dtype(x.dtype)
    n, channels, h, w = x.shape
    y = torch.empty(n, h * w, channels, dtype=acc, device=x.device).copy_(x.flatten(2).mT)
    whole = h * w // block * block
    parts = [y[:, :whole].view(n, whole // block, block, channels), y[:, None, whole:]]
    found = [_of_blocks(part, rest) for part in parts if part.shape[1] and part.shape[2]]
    return torch.cat(found, 1) if found else y.new_empty(n, 0, channels, 3 if rest else 2)
