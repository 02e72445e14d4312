"""Defines `to_bytes`: numbers as the bytes of pixels."""

import torch
from torch import Tensor

from .precision import accumulation_dtype

__all__ = ["levels", "to_bytes"]


def levels(y: Tensor) -> tuple[Tensor, Tensor]:
    """255 y as bytes, y [n, ...], which is overwritten, and the rows with a NaN, whose byte is 0; ties go to even.

    Images [n, c, h, w] become [n, h, w, c]. A NaN stays one when it is clamped, and so does a sum with it, which is
    otherwise finite then.
    """
    y = y.clamp_(0, 1)
    nan = y.flatten(1).sum(1).isnan()
    whole = y.nan_to_num_(0.0).mul_(255).round_()
    whole = whole.permute(0, 2, 3, 1) if y.dim() == 4 else whole
    return torch.empty(whole.shape, dtype=torch.uint8, device=y.device).copy_(whole), nan


def to_bytes(x: Tensor, scale: float, shift: float) -> tuple[Tensor, Tensor]:
    """x [n, ...] -> uint8 255 (x scale + shift), images as [n, h, w, c], and nan [n]."""
    return levels((x.to(accumulation_dtype(x.dtype)) * scale).add_(shift))
