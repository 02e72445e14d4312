"""One image file as a row: turned upright, scaled and cropped, its pixels in the range the model has them in."""

from __future__ import annotations

import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from fastvae.errors import InputError
from fastvae.files._common import Values, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
FILTERS = ("bilinear", "bicubic", "lanczos")
CROPS = ("none", "center")
MAX_PIXELS = 2**26
# What Pillow raises for damaged images, and for damaged EXIF in sound ones.
MALFORMED = (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, struct.error)
# EXIF's tag for how a camera was held, and its values for pictures that lie on their side.
ORIENTATION, ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)

_WARNINGS = threading.Lock()


@dataclass(frozen=True)
class Preparation:
    """What becomes of an image on its way to a row of ``shape`` (channels, height, width).

    Args:
        resize: scale images of another size, whatever that does to their aspect.
        crop: ``center`` scales the shorter side and cuts off what is too much of the longer one, equally at both ends.
        filter: one of FILTERS, with Pillow's antialiasing.
        pixel_range: values of black and white.
    """

    shape: tuple[int, int, int]
    resize: bool = False
    crop: str = "none"
    filter: str = "lanczos"
    pixel_range: tuple[float, float] = (0.0, 1.0)

    def opened(self, path: Path, content: IO[bytes] | None = None) -> Image:
        """The image, not yet decoded, once its size and mode are known to be fine; that in ``content`` if it is given.

        Raises:
            InputError: no still image of 8 bits a channel, or one of another size where sizes have to be right.
        """
        import PIL.Image

        try:
            with _quiet():
                image = PIL.Image.open(content or path, formats=FORMATS)
                size, frames = _upright_size(image), _frames(image)
        except (*MALFORMED, PIL.Image.DecompressionBombError) as error:
            raise InputError(f"{path}: cannot be read as an image: {one_line(error)}") from error
        width, height = size
        if width * height > MAX_PIXELS:
            raise InputError(f"{path}: {width} x {height} pixels are more than {MAX_PIXELS:,}; refused")
        self._check_size(path, size)
        if image.mode not in MODES:
            raise InputError(f"{path}: expected 8 bits a channel, found an image of mode {image.mode}")
        if frames > 1:
            raise InputError(f"{path}: expected a still image, found one of {frames} frames")
        return image

    def row(self, path: Path, content: IO[bytes] | None = None) -> Values:
        """The image as float32 (channels, height, width); errors as :meth:`opened`, or it cannot be decoded."""
        import PIL.ImageOps

        with self.opened(path, content) as image:
            try:
                pixels = image.convert("L" if self.shape[0] == 1 else "RGB")
                with _quiet():
                    PIL.ImageOps.exif_transpose(pixels, in_place=True)
            except MALFORMED as error:
                raise InputError(f"{path}: cannot be decoded: {one_line(error)}") from error
        self._check_size(path, pixels.size)
        channels, height, width = self.shape
        values = np.asarray(self._fitted(pixels), np.float32).reshape(height, width, channels)
        unit = values.transpose(2, 0, 1) / np.float32(255)
        low, high = self.pixel_range
        return unit if (low, high) == (0, 1) else unit * np.float32(high - low) + np.float32(low)

    def _check_size(self, path: Path, size: tuple[int, int]) -> None:
        if not self.resize and self.crop == "none" and size != (self.shape[2], self.shape[1]):
            raise InputError(
                f"{path}: expected {self.shape[2]} x {self.shape[1]} pixels (width x height), found {size[0]} x "
                f"{size[1]}; pass --resize to scale images, or --crop center to keep their aspect"
            )

    def _fitted(self, image: Image) -> Image:
        """``image`` in the size of a row."""
        import PIL.Image

        target, size = (self.shape[2], self.shape[1]), image.size
        if self.crop == "center":
            factor = max(to / of for to, of in zip(target, size, strict=True))
            size = (max(target[0], int(size[0] * factor)), max(target[1], int(size[1] * factor)))
        else:
            size = target
        if size != image.size:
            image = image.resize(size, PIL.Image.Resampling[self.filter.upper()])
        if size == target:
            return image
        left, top = (round((of - to) / 2) for to, of in zip(target, size, strict=True))
        return image.crop((left, top, left + target[0], top + target[1]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings; one thread at a time, because warnings are turned off for all."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _upright_size(image: Image) -> tuple[int, int]:
    """Width and height as people see it; a PNG's stored ones, which does not tell before it is decoded."""
    width, height = image.size
    sideways = image.format != "PNG" and image.getexif().get(ORIENTATION) in ON_ITS_SIDE
    return (height, width) if sideways else (width, height)


def _frames(image: Image) -> int:
    """Frames of an animation; what phones append to a JPEG is none."""
    return int(getattr(image, "n_frames", 1)) if image.format in ("PNG", "WEBP") else 1
