"""Defines `conv_image`: a last convolution whose values become the bytes of an image."""

import torch
from torch import Tensor

from .conv2d import convolved

__all__ = ["conv_image"]


def conv_image(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    shift: float,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation: str,
    alpha: float | None,
) -> Tensor:
    """x [n, c, h, w], weight [o, c, kh, kw] -> uint8 [n, h', w', o]; ties to even, and 0 for NaN."""
    y = convolved(x, weight, bias, stride, padding, dilation, 1, activation, alpha)
    levels = (y * scale + shift).nan_to_num_(0.0).clamp_(0, 1).mul_(255).round_().permute(0, 2, 3, 1)
    return torch.empty(levels.shape, dtype=torch.uint8, device=x.device).copy_(levels)
