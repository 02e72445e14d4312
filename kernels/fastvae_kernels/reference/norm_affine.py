"""Defines `norm_affine`: statistics of blocks of channels merged into what normalises each channel of each row."""

import torch
from torch import Tensor

__all__ = ["norm_affine"]


def _merged(statistics: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """statistics [n, blocks, g, k, 2 or 3], counts [blocks] -> mean, what rounding it left, variance: [n, g].

    Chan's formula for all blocks at once: the variance is the mean of the blocks' own and of their means' squared
    deviations.
    """
    weight = (counts / (counts.sum() * statistics.shape[3])).view(-1, 1, 1)
    means = statistics[..., 0]
    mean = (weight * means).sum((1, 3))
    off = means - mean[:, None, :, None]
    if statistics.shape[4] == 3:
        off = off + statistics[..., 2]
    left = (weight * off).sum((1, 3))
    off = off - left[:, None, :, None]
    nearest = mean + left
    share = statistics[..., 1] / (counts.sum() * statistics.shape[3])
    return nearest, left - (nearest - mean), (share + weight * off.square()).sum((1, 3))


def norm_affine(
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pixels: int,
    block: int,
    counts: Tensor | None,
    groups: int,
    eps: float,
) -> Tensor:
    """statistics [n, blocks, c, 2 or 3] of blocks of `counts` pixels -> mean, scale and shift [n, 3, c].

    Without counts, blocks have `block` pixels and the last what is left of `pixels`.
    """
    n, blocks, channels, size = statistics.shape
    if counts is None:
        counts = statistics.new_full((blocks,), block)
        counts[-1] = pixels - (blocks - 1) * block
    grouped = statistics.reshape(n, blocks, groups, channels // groups, size)
    mean, left, variance = (
        each.repeat_interleave(channels // groups, 1) for each in _merged(grouped, counts.to(statistics.dtype))
    )
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.to(scale.dtype)
    shift = -left * scale
    if bias is not None:
        shift += bias.to(scale.dtype)
    return torch.stack([mean, scale, shift], 1)
