"""Folders of images, decoded block by block; and grids of images as one PNG."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastvae.errors import InputError
from fastvae.files._common import Values, needs, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
MAX_PIXELS = 2**26
CELL = 56
SMALL = 32
GAP = 2
GAP_GREY = 90


class ImageFolder:
    """The images of a folder, sorted by name, as rows of ``shape`` (channels, height, width) in [0, 1].

    Opening it looks at the size of every image, so that a wrong one is found before any work is done.

    Raises:
        InputError: no images, one that cannot be read, or one of another size than ``shape`` without ``resize``.
        UnsupportedError: Pillow is not installed.
    """

    def __init__(self, folder: Path, shape: Sequence[int], *, resize: bool = False) -> None:
        with needs("pillow", "images"):
            import PIL.Image  # noqa: F401
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise InputError(f"{folder}: this model takes rows of shape {tuple(shape)}, not grey or RGB images")
        self.channels, self.height, self.width = shape
        self.resize = resize
        self.paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
        if not self.paths:
            raise InputError(f"{folder}: expected images ({', '.join(SUFFIXES)}) in this folder, found none")
        for path in self.paths:
            self._open(path).close()

    def block(self, low: int, high: int) -> Values:
        """Images low to high: float32 (high - low, channels, height, width)."""
        rows = np.empty((high - low, self.channels, self.height, self.width), np.float32)
        for row, path in zip(rows, self.paths[low:high], strict=True):
            row[:] = self._decode(path)
        return rows

    def _open(self, path: Path) -> Image:
        """The image, not yet decoded, once its size and mode are known to be fine."""
        import PIL.Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
                image = PIL.Image.open(path, formats=FORMATS)
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise InputError(f"{path}: cannot be read as an image: {one_line(error)}") from error
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise InputError(f"{path}: {width} x {height} pixels are more than {MAX_PIXELS:,}; refused")
        if not self.resize and (width, height) != (self.width, self.height):
            raise InputError(
                f"{path}: expected {self.width} x {self.height} pixels (width x height), found {width} x {height}; "
                "pass --resize to scale images"
            )
        if image.mode not in MODES:
            raise InputError(f"{path}: expected 8 bits a channel, found an image of mode {image.mode}")
        return image

    def _decode(self, path: Path) -> Values:
        import PIL.Image

        with self._open(path) as image:
            try:
                pixels = image.convert("L" if self.channels == 1 else "RGB")
            except (OSError, ValueError, SyntaxError, EOFError) as error:
                raise InputError(f"{path}: cannot be decoded: {one_line(error)}") from error
        if pixels.size != (self.width, self.height):
            pixels = pixels.resize((self.width, self.height), PIL.Image.Resampling.BILINEAR)
        values = np.asarray(pixels, np.float32).reshape(self.height, self.width, self.channels)
        return values.transpose(2, 0, 1) / np.float32(255)


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
