"""Which memory format an op's output has: shared by the shape rules and every implementation, so they agree."""

from math import prod

import torch
from torch import Tensor

__all__ = ["empty_output", "empty_rows", "flat_rows", "output_format", "own_output", "shared_gradient"]


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


def own_output(y: Tensor, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`y` in `dtype`, or `x`'s, and in `x`'s memory format, copied if that leaves it sharing memory with `x`."""
    y = y.to(dtype or x.dtype).contiguous(memory_format=output_format(x))
    if y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        return y.clone(memory_format=torch.preserve_format)
    return y


def _axes_in_memory(like: Tensor) -> list[int]:
    """The axes after the first, the one with the largest strides first."""
    strides = like.stride()
    return sorted(range(1, like.dim()), key=lambda axis: -strides[axis])


def flat_rows(like: Tensor, x: Tensor) -> Tensor:
    """`x` [m, ...] as [m, dim], its columns in the order in which `like`'s entries lie in memory, inner stride 1.

    For sums over a row, where any order will do as long as it is everybody's: channels_last images are then read
    where they are, and only what lies otherwise is copied. An `x` without rows, [...], becomes [dim].
    """
    axes = _axes_in_memory(like)
    dim = prod(like.shape[1:])
    if x.dim() < like.dim():
        flat = x.permute([axis - 1 for axis in axes]).reshape(dim)
    else:
        flat = x.permute(0, *axes).reshape(x.shape[0], dim)
    return flat if flat.stride(-1) == 1 else flat.contiguous()


def empty_rows(like: Tensor, dtype: torch.dtype, *, shared: bool = False) -> tuple[Tensor, Tensor]:
    """An uninitialised tensor of `like`'s shape [m, ...] or, if `shared`, of that of its rows, as two views.

    The first is what `flat_rows(like, ...)` would make of the second: [m, dim] or [dim], contiguous.
    """
    axes = _axes_in_memory(like)
    sizes = [like.shape[axis] for axis in axes]
    rows = [] if shared else [like.shape[0]]
    flat = like.new_empty([*rows, prod(sizes)], dtype=dtype)
    back = sorted(range(len(axes)), key=lambda place: axes[place])
    if not shared:
        back = [0, *(place + 1 for place in back)]
    return flat, flat.view([*rows, *sizes]).permute(back)


def shared_gradient(parts: Tensor, like: Tensor, x: Tensor) -> Tensor:
    """Parts [m, dim] of a gradient by rows of `like`, in the order of `flat_rows`, as that of an `x` all rows share.

    `x` has shape like.shape[1:] or is a scalar tensor.
    """
    if x.dim() == 0:
        return parts.sum().to(x.dtype)
    flat, shaped = empty_rows(like, x.dtype, shared=True)
    flat.copy_(parts.sum(0))
    return shaped
