"""Where an image's numbers lie, and convolutions as products of windows of one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Image", "Padding", "Windows", "convolution", "padding_for", "transposed"]

# Lines and columns of zeros above, left of, below and right of an image.
Padding = tuple[int, int, int, int]
_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Image:
    """An image of a row: numbers of channels side by side or, ``planar``, of a line.

    ``place`` is where it begins, with the zeros around it.
    """

    place: int
    channels: int
    height: int
    width: int
    padding: Padding = (0, 0, 0, 0)
    planar: bool = True

    @property
    def line(self) -> int:
        """Entries from one line to the next."""
        return (self.padding[1] + self.width + self.padding[3]) * (1 if self.planar else self.channels)

    @property
    def column(self) -> int:
        """Entries from one column to the next."""
        return 1 if self.planar else self.channels

    @property
    def channel(self) -> int:
        """Entries from one channel to the next."""
        return self.line * (self.padding[0] + self.height + self.padding[2]) if self.planar else 1

    @property
    def first(self) -> int:
        """The place of the first number that is not a zero around it."""
        return self.place + self.padding[0] * self.line + self.padding[1] * self.column

    @property
    def size(self) -> int:
        """Entries, with those around."""
        return (
            self.channel * self.channels
            if self.planar
            else self.line * (self.padding[0] + self.height + self.padding[2])
        )


@dataclass(frozen=True)
class Windows:
    """Windows of an image whose products are some entries of another: lines from ``line`` on, every ``step``th, say.

    ``terms`` [outputs, taps of lines, taps of columns, channels] are the weights; the first window begins ``top`` lines
    and ``left`` columns from the image's first number, others ``stride`` further.
    """

    terms: _Floats
    top: int
    left: int
    stride: tuple[int, int]
    start: tuple[int, int]
    step: tuple[int, int]
    lines: int
    columns: int

    def offsets(self, image: Image) -> tuple[list[int], int]:
        """Where the terms of a window lie from its start, and how many there are side by side."""
        _, lines, columns, channels = self.terms.shape
        if not image.planar:
            return [line * image.line for line in range(lines)], columns * channels
        return [
            channel * image.channel + line * image.line for channel in range(channels) for line in range(lines)
        ], columns

    def weights(self, image: Image) -> _Floats:
        """[outputs, terms] in that order."""
        terms = self.terms.transpose(0, 3, 1, 2) if image.planar else self.terms
        return terms.reshape(len(terms), -1)


def convolution(weight: _Floats, stride: Sequence[int], padding: Sequence[int], size: tuple[int, int]) -> list[Windows]:
    """Of an image of ``size`` with weights [outputs, channels, height, width]; one kind of windows.

    ``padding`` is that of `conv2d`: top, left, bottom, right.
    """
    top, left, bottom, right = padding
    (height, width), (down, across) = size, stride
    lines = (height + top + bottom - weight.shape[2]) // down + 1
    columns = (width + left + right - weight.shape[3]) // across + 1
    return [Windows(weight.transpose(0, 2, 3, 1), -top, -left, (down, across), (0, 0), (1, 1), lines, columns)]


def transposed(
    weight: _Floats, stride: Sequence[int], padding: Sequence[int], result: tuple[int, int]
) -> list[Windows]:
    """Of an image with weights [channels, outputs, height, width], for a result of that size.

    Between two steps of the stride every entry of the result has other weights: a kind of windows each. None at all
    where an entry has no weights.
    """
    found = []
    rows, columns = (
        [
            _taps(start, weight.shape[2 + axis], stride[axis], padding[axis])
            for start in range(min(stride[axis], result[axis]))
        ]
        for axis in (0, 1)
    )
    for a, (vertical, top) in enumerate(rows):
        for b, (horizontal, left) in enumerate(columns):
            if not vertical or not horizontal:
                return []
            terms = weight[:, :, vertical][:, :, :, horizontal].transpose(1, 2, 3, 0)
            sizes = (math.ceil((result[0] - a) / stride[0]), math.ceil((result[1] - b) / stride[1]))
            found.append(Windows(terms, top, left, (1, 1), (a, b), (stride[0], stride[1]), *sizes))
    return found


def _taps(start: int, size: int, stride: int, padding: int) -> tuple[list[int], int]:
    """The weights that the entries ``start``, ``start + stride`` and so on read, and the first's first input."""
    taps = [tap for tap in range(size) if (start + padding - tap) % stride == 0]
    return taps[::-1], (start + padding - taps[-1]) // stride if taps else 0


def padding_for(windows: Sequence[Windows], size: tuple[int, int]) -> Padding:
    """The zeros that all windows of an image of ``size`` need around it."""
    top, left, bottom, right = (max(0, *sides) for sides in zip(*_beyond(windows, size), strict=True))
    return top, left, bottom, right


def _beyond(windows: Sequence[Windows], size: tuple[int, int]) -> Iterator[Padding]:
    for own in windows:
        bottom = own.top + (own.lines - 1) * own.stride[0] + own.terms.shape[1]
        right = own.left + (own.columns - 1) * own.stride[1] + own.terms.shape[2]
        yield -own.top, -own.left, bottom - size[0], right - size[1]
