"""`conv2d` and `conv_transpose2d` by the library that PyTorch calls; results are rounded before an activation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layout import output_format, own_output
from ..reference.activation import activate_
from ..reference.conv2d import convolved
from ..reference.precision import accumulation_dtype, ieee_float32

__all__ = ["conv2d", "conv_transpose2d"]


def _finished(
    y: Tensor, x: Tensor, residual: Tensor | None, activation: str, alpha: float | None, out_dtype: torch.dtype
) -> Tensor:
    """act(y) + residual in x's memory format: an activation is computed in float32, a sum in what is there."""
    if activation != "identity":
        y = activate_(y.to(accumulation_dtype(y.dtype)), activation, alpha)
    if residual is not None:
        y = y.add_(residual)
    return own_output(y, x, out_dtype)


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
    """As the reference defines it; `padding` is top, left, bottom, right.

    8-bit operands are multiplied as bfloat16 or float32, which hold them exactly.
    """
    dtype = x.dtype
    if scale is not None:
        dtype = torch.bfloat16 if out_dtype == torch.bfloat16 else torch.float32
    image = x.contiguous(memory_format=output_format(x))
    y = convolved(image, weight, bias, stride, padding, dilation, groups, "identity", None, scale, dtype)
    return _finished(y, x, residual, activation, alpha, out_dtype)


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
    """As the reference defines it."""
    image = x.contiguous(memory_format=output_format(x))
    with ieee_float32(x):
        y = F.conv_transpose2d(image, weight, bias, stride, padding, output_padding, groups, dilation)
    return _finished(y, x, residual, activation, alpha, x.dtype)
