"""Defines `conv_image`: a last convolution whose values become the bytes of an image."""

from torch import Tensor

from .conv2d import convolved
from .to_bytes import levels

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
) -> tuple[Tensor, Tensor]:
    """x [n, c, h, w], weight [o, c, kh, kw] -> uint8 [n, h', w', o], and nan [n]."""
    y = convolved(x, weight, bias, stride, padding, dilation, 1, activation, alpha)
    return levels(y.mul_(scale).add_(shift))
