"""Defines `conv2d_statistics`: a convolution, and the statistics of what it stored."""

import torch
from torch import Tensor

from .channel_statistics import channel_statistics
from .conv2d import conv2d

__all__ = ["conv2d_statistics"]


def conv2d_statistics(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    alpha: float | None,
    scale: Tensor | None,
    out_dtype: torch.dtype,
    block: int,
) -> tuple[Tensor, Tensor]:
    """`conv2d`, and mean and sum of squared deviations of each `block` pixels of its rounded result."""
    y = conv2d(x, weight, bias, residual, stride, padding, dilation, groups, activation, alpha, scale, out_dtype)
    return y, channel_statistics(y, block, False)
