"""Defines `conv2d`: a 2-d cross-correlation with bias, activation and residual."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layout import own_output
from .activation import activate_
from .precision import accumulation_dtype, ieee_float32

__all__ = ["conv2d", "convolved"]


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    alpha: float | None,
    scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """act(conv(x, weight) scale + bias) as it was accumulated, or in `dtype`; `padding` is top, left, bottom, right."""
    acc = dtype or accumulation_dtype(x.dtype)
    within = None if bias is None or scale is not None else bias.to(acc)
    top, left, bottom, right = padding
    padded, padding = x.to(acc), [top, left]
    if padding != [bottom, right]:
        padded, padding = F.pad(padded, (left, right, top, bottom)), [0, 0]
    with ieee_float32(x):
        y = F.conv2d(padded, weight.to(acc), within, stride, padding, dilation, groups)
    if scale is not None:
        y = y * scale[:, None, None]
        y = y if bias is None else y.add_(bias[:, None, None])
    return activate_(y, activation, alpha)


def conv2d(
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
) -> Tensor:
    """act(conv(x, weight) scale + bias) + residual; x [n, c, h, w], weight [o, c/groups, kh, kw] -> [n, o, h', w']."""
    y = convolved(x, weight, bias, stride, padding, dilation, groups, activation, alpha, scale)
    if residual is not None:
        y += residual
    return own_output(y, x, out_dtype)
