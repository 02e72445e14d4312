"""How kernels see images: a row's pixels and channels without gaps in one of two orders, rows any distance apart."""

import torch
from torch import Tensor

from .gemm import row_unit

__all__ = ["dense_rows", "image_units"]


def dense_rows(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """`x` [n, c, h, w] itself if each row lies in that format, else a copy that does."""
    return x if x[:1].is_contiguous(memory_format=memory_format) else x.contiguous(memory_format=memory_format)


def image_units(x: Tensor, channels_last: bool, block: int = 0) -> tuple[int, int, int, int]:
    """unit, pixels, channels and row stride of x as of `dense_rows`.

    The innermost of pixels and channels, and the row stride, are counted in `unit` elements, so that the compiler can
    see how far runs are aligned. So is a block of so many pixels where pixels are innermost.
    """
    n, channels, h, w = x.shape
    stride = x.stride(0) if n > 1 else 0
    unit = row_unit(channels, stride) if channels_last else row_unit(h * w, stride, block)
    if channels_last:
        return unit, h * w, channels // unit, stride // unit
    return unit, h * w // unit, channels, stride // unit
