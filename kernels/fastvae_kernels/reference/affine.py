"""Defines `affine`: an elementwise scale and shift with activation, what a folded normalisation leaves."""

import torch
from torch import Tensor

from ..layout import own_output
from .activation import activate_
from .precision import accumulation_dtype

__all__ = ["affine"]


def _broadcast(p: Tensor, x: Tensor, acc: torch.dtype) -> Tensor:
    """A [c] parameter along axis 1 of `x`, or one of shape x.shape[1:] as it is."""
    p = p.to(acc)
    return p if p.shape == x.shape[1:] else p.view(-1, *(1,) * (x.dim() - 2))


def affine(x: Tensor, scale: Tensor | None, shift: Tensor | None, activation: str, alpha: float | None) -> Tensor:
    """act(x * scale + shift); scale and shift are [c] along axis 1, of shape x.shape[1:], or None."""
    acc = accumulation_dtype(x.dtype)
    y = x.to(acc, copy=True) if scale is None else x.to(acc) * _broadcast(scale, x, acc)
    if shift is not None:
        y += _broadcast(shift, x, acc)
    return own_output(activate_(y, activation, alpha), x)
