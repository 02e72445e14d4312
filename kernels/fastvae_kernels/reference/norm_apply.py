"""Defines `norm_apply`: an image's channels less their means, scaled, shifted and activated, row by row."""

from torch import Tensor

from ..layout import output_format, own_output
from .activation import activate_
from .precision import accumulation_dtype

__all__ = ["norm_apply"]


def norm_apply(x: Tensor, affine: Tensor, activation: str, alpha: float | None) -> Tensor:
    """act((x - mean) * scale + shift); x [n, c, h, w], affine [n, 3, c] holds mean, scale and shift."""
    mean, scale, shift = (each[:, :, None, None] for each in affine.unbind(1))
    y = x.to(accumulation_dtype(x.dtype), copy=True, memory_format=output_format(x))
    y -= mean
    y *= scale
    y += shift
    return own_output(activate_(y, activation, alpha), x)
