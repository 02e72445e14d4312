"""Images of bytes as PNG, by Pillow: a row (channels, height, width) of 1 or 3 channels."""

from __future__ import annotations

import io

import numpy as np

from fastvae.bulk.table import Column, Rows
from fastvae.files import MALFORMED

MODES = {1: "L", 3: "RGB"}


def is_image(column: Column) -> bool:
    """Whether a column's rows can be PNG images."""
    return column.dtype == "uint8" and len(column.shape) == 3 and column.shape[0] in MODES


def encoded(row: Rows) -> bytes:
    """A row as a PNG; the same bytes from the same Pillow."""
    import PIL.Image

    pixels = row[0] if len(row) == 1 else row.transpose(1, 2, 0)
    file = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def decoded(data: bytes, column: Column) -> Rows:
    """The row that :func:`encoded` took.

    Raises:
        ValueError: no PNG, a damaged one, or not one of such a row.
    """
    import PIL.Image

    channels, height, width = column.shape
    try:
        with PIL.Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != (width, height) or image.mode != MODES[channels]:
                raise ValueError(f"its size is {image.size} and its mode {image.mode}")
            pixels = np.asarray(image)
    except (*MALFORMED, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"no PNG of {column}: {error}") from error
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)
