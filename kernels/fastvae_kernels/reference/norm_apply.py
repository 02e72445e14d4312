"""Defines `norm_apply`: an image's channels less their means, scaled, shifted and activated, row by row."""

import torch
from torch import Tensor

from ..layout import output_format, own_output
from .activation import activate_
from .precision import accumulation_dtype

__all__ = ["norm_apply", "written"]


_LARGEST = torch.finfo(torch.float8_e4m3fn).max


def written(y: Tensor, x: Tensor, out_scale: float | None) -> Tensor:
    """`y`, accumulated, as what a norm of `x` gives: in x's dtype, or divided by `out_scale` in e4m3, saturating."""
    if out_scale is None:
        return own_output(y, x)
    return own_output((y / out_scale).clamp_(-_LARGEST, _LARGEST), x, torch.float8_e4m3fn)


def norm_apply(
    x: Tensor, affine: Tensor, activation: str, alpha: float | None, out_scale: float | None = None
) -> Tensor:
    """act((x - mean) * scale + shift); x [n, c, h, w], affine [n, 3, c] holds mean, scale and shift.

    With out_scale: that divided by it, in e4m3, saturating.
    """
    mean, scale, shift = (each[:, :, None, None] for each in affine.unbind(1))
    y = x.to(accumulation_dtype(x.dtype), copy=True, memory_format=output_format(x))
    y -= mean
    y *= scale
    y += shift
    return written(activate_(y, activation, alpha), x, out_scale)
