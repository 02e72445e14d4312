"""Defines `conv_transpose2d`: a 2-d transposed convolution with bias, activation and residual."""

import torch.nn.functional as F
from torch import Tensor

from ..layout import own_output
from .activation import activate_
from .precision import accumulation_dtype, ieee_float32

__all__ = ["conv_transpose2d"]


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    alpha: float | None,
) -> Tensor:
    """act(convᵀ(x, weight) + bias) + residual; x [n, c, h, w], weight [c, o/groups, kh, kw] -> [n, o, h', w']."""
    acc = accumulation_dtype(x.dtype)
    bias = None if bias is None else bias.to(acc)
    with ieee_float32(x):
        y = F.conv_transpose2d(x.to(acc), weight.to(acc), bias, stride, padding, output_padding, groups, dilation)
    y = activate_(y, activation, alpha)
    if residual is not None:
        y += residual
    return own_output(y, x)
