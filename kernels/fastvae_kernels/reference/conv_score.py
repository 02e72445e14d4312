"""Defines `conv_score`: a decoder's last convolution and the score of data under it."""

from torch import Tensor

from .conv2d import convolved
from .score import score

__all__ = ["conv_score"]


def conv_score(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    data: Tensor,
    likelihood: str,
    logvar: Tensor | None,
    mask: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation: str,
    alpha: float | None,
) -> Tensor:
    """x [s*n, c, h, w], weight [o, c, kh, kw], data and mask [n, o, h', w'] -> [s*n]; the output is never rounded."""
    output = convolved(x, weight, bias, stride, padding, dilation, 1, activation, alpha)
    return score(output, data, likelihood, logvar, mask)
