"""An image kept as bands of rows, whose memory goes back as soon as nothing will read them."""

from __future__ import annotations

import math
import mmap

import torch
from torch import Tensor


class Store:
    """The rows of one image (1, channels, height, width), from the first on.

    Args:
        image: an image to look at, all of it there; or with ``filled`` False, where rows are to be written.
    """

    def __init__(self, image: Tensor | None = None, *, filled: bool = True) -> None:
        self._into = None if filled else image
        self._bands: list[tuple[int, Tensor]] = [] if image is None or not filled else [(0, image)]

    def add(self, rows: Tensor) -> None:
        """Append a copy of ``rows``."""
        low = 0
        if self._bands:
            last, band = self._bands[-1]
            low = last + band.shape[2]
        into = None if self._into is None else self._into[:, :, low : low + rows.shape[2]]
        band = empty(tuple(rows.shape), rows) if into is None else into
        self._bands.append((low, band.copy_(rows)))

    def rows(self, first: int, end: int) -> Tensor:
        """Rows ``first`` to ``end``, contiguous."""
        parts = [
            band[:, :, max(0, first - low) : end - low]
            for low, band in self._bands
            if low < end and low + band.shape[2] > first
        ]
        return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, dim=2)

    def whole(self) -> Tensor:
        """All rows; kept as one band from now on."""
        if len(self._bands) > 1:
            self._bands = [(0, torch.cat([band for _, band in self._bands], dim=2))]
        return self._bands[0][1].contiguous()

    def release(self, first: int) -> None:
        """Forget bands that end at or above row ``first``."""
        self._bands = [(low, band) for low, band in self._bands if low + band.shape[2] > first]


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A tensor to fill. On a CPU it has pages of its own, which go back to the system with it.

    What is freed to the allocator instead may stay in the process, between blocks still in use.
    """
    if like.device.type != "cpu" or 0 in shape:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    pages = mmap.mmap(-1, math.prod(shape) * like.dtype.itemsize)
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)
