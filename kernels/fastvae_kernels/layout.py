"""Which memory format an op's output has: shared by the shape rules and every implementation, so they agree."""

from math import prod

import torch
from torch import Tensor

__all__ = ["empty_output", "flat_rows", "output_format", "own_output"]


def output_format(x: Tensor) -> torch.memory_format:
    """`channels_last` for a 4-d tensor laid out so, else `contiguous_format`.

    Images of one channel are both at once; those whose channels have stride 1 count as the first.
    """
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        by_strides = x.shape[1] == 1 and x.stride(1) == 1 and x.shape[2:].numel() > 1
        return torch.channels_last if by_strides or not x.is_contiguous() else torch.contiguous_format
    return torch.contiguous_format


def empty_output(x: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised output of `shape` on `x`'s device, in `x`'s memory format."""
    memory_format = output_format(x)
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device, memory_format=memory_format)


def own_output(y: Tensor, x: Tensor) -> Tensor:
    """`y` in `x`'s dtype and memory format, copied if that leaves it sharing memory with `x`."""
    y = y.to(x.dtype).contiguous(memory_format=output_format(x))
    if y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        return y.clone(memory_format=torch.preserve_format)
    return y


def flat_rows(like: Tensor, x: Tensor) -> Tensor:
    """`x` [m, ...] as [m, dim], its columns in the order in which `like`'s entries lie in memory, inner stride 1.

    For sums over a row, where any order will do as long as it is everybody's: channels_last images are then read
    where they are, and only what lies otherwise is copied. An `x` without rows, [...], becomes [dim].
    """
    strides = like.stride()
    axes = sorted(range(1, like.dim()), key=lambda axis: -strides[axis])
    dim = prod(like.shape[1:])
    if x.dim() < like.dim():
        flat = x.permute([axis - 1 for axis in axes]).reshape(dim)
    else:
        flat = x.permute(0, *axes).reshape(x.shape[0], dim)
    return flat if flat.stride(-1) == 1 else flat.contiguous()
