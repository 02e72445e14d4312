"""Defines `to_bytes`: numbers as the bytes of pixels."""

import torch
from torch import Tensor

from .precision import accumulation_dtype

__all__ = ["levels", "to_bytes"]


def levels(y: Tensor, scale: float, shift: float) -> tuple[Tensor, Tensor]:
    """Bytes of y [n, ...], which is overwritten, and the rows with a NaN, whose byte is 0; ties go to even.

    Images [n, c, h, w] become [n, h, w, c].
    """
    nan = y.isnan().flatten(1).any(1)
    whole = y.mul_(scale).add_(shift).nan_to_num_(0.0).clamp_(0, 1).mul_(255).round_()
    whole = whole.permute(0, 2, 3, 1) if y.dim() == 4 else whole
    return torch.empty(whole.shape, dtype=torch.uint8, device=y.device).copy_(whole), nan


def to_bytes(x: Tensor, scale: float, shift: float) -> tuple[Tensor, Tensor]:
    """x [n, ...] -> uint8 255 (x scale + shift), images as [n, h, w, c], and nan [n]."""
    return levels(x.to(accumulation_dtype(x.dtype), copy=True), scale, shift)
