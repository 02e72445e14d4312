"""Folders of images, decoded block by block; and grids of images as one PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastvae.errors import InputError
from fastvae.files._common import Values, needs
from fastvae.files._pictures import MAX_PIXELS, Preparation

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
CELL = 56
SMALL = 32
GAP = 2
GAP_GREY = 90


class ImageFolder:
    """The images of a folder, sorted by name, as rows that ``preparation`` makes of them.

    Opening it looks at the size of every image, so that a wrong one is found before any work is done; unless bad ones
    become rows of NaN (``skip``). ``rejected`` has what was wrong with those, by path.

    Raises:
        InputError: no images, or one that cannot be read or is of another size.
        UnsupportedError: Pillow is not installed.
    """

    def __init__(self, folder: Path, preparation: Preparation, *, recursive: bool = False, skip: bool = False) -> None:
        with needs("pillow", "images"):
            import PIL.Image  # noqa: F401
        shape = preparation.shape
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise InputError(f"{folder}: this model takes rows of shape {tuple(shape)}, not grey or RGB images")
        self.preparation, self._skip = preparation, skip
        self.rejected: dict[Path, str] = {}
        found = folder.rglob("*") if recursive else folder.iterdir()
        self.paths = sorted(path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())
        self.names = [path.relative_to(folder).as_posix() for path in self.paths]
        if not self.paths:
            where = "in this folder or below" if recursive else "in this folder"
            raise InputError(f"{folder}: expected images ({', '.join(SUFFIXES)}) {where}, found none")
        for path in () if skip else self.paths:
            preparation.opened(path).close()

    def block(self, low: int, high: int) -> Values:
        """Images low to high: float32 (high - low, channels, height, width)."""
        rows = np.empty((high - low, *self.preparation.shape), np.float32)
        for row, path in zip(rows, self.paths[low:high], strict=True):
            try:
                row[:] = self.preparation.row(path)
            except InputError as error:
                if not self._skip:
                    raise
                self.rejected[path] = str(error)
                row[:] = np.nan
        return rows


def check_grid(count: int, shape: Sequence[int], columns: int) -> None:
    """Refuse a grid of ``count`` images of ``shape`` (channels, height, width) that would be no readable picture.

    Raises:
        InputError: rows of another shape, no images at all, or more than MAX_PIXELS pixels.
    """
    others = "write .npy, .npz, .csv or .parquet instead"
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(f".png: this model's rows have shape {tuple(shape)}, not grey or RGB images; {others}")
    if not count:
        raise InputError(f".png: there are no images to draw; {others}")
    height, width = (size * _factor(shape) + GAP for size in shape[1:])
    if math.ceil(count / columns) * height * columns * width > MAX_PIXELS:
        raise InputError(f".png: a grid of {count:,} images would have more than {MAX_PIXELS:,} pixels; {others}")


def grid_png(lines: Sequence[Values]) -> bytes:
    """A PNG with one line of images (n, channels, height, width) of values in [0, 1] for each of ``lines``.

    Images under SMALL pixels are enlarged by whole numbers to CELL pixels or more.
    """
    with needs("pillow", ".png files"):
        import PIL.Image
    channels, height, width = lines[0].shape[1:]
    factor = _factor(lines[0].shape[1:])
    height, width = height * factor, width * factor
    columns = max(map(len, lines))
    canvas = np.full(
        (len(lines) * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), GAP_GREY, dtype=np.uint8
    )
    for line, images in enumerate(lines):
        for column, image in enumerate(images):
            pixels = np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
            top, left = line * (height + GAP) + GAP, column * (width + GAP) + GAP
            canvas[top : top + height, left : left + width] = pixels.repeat(factor, 0).repeat(factor, 1)
    buffer = io.BytesIO()
    PIL.Image.fromarray(canvas[:, :, 0] if channels == 1 else canvas).save(buffer, "PNG")
    return buffer.getvalue()


def _factor(shape: Sequence[int]) -> int:
    smallest = min(shape[1:])
    return math.ceil(CELL / smallest) if smallest < SMALL else 1
