"""Figures without pyplot, and files of them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fastvae.atomic import atomic_write
from fastvae.errors import InputError
from fastvae.files import needs
from fastvae.noise import check_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
# Of each kind of file, what would make two files of one figure differ.
DATES = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
LARGEST = 12.0


def new(width: float, height: float) -> Figure:
    """An empty figure of so many inches, scaled down to LARGEST."""
    with needs("matplotlib", "plots", "plot"):
        from matplotlib.figure import Figure
    scale = min(1.0, LARGEST / max(width, height))
    figure = Figure(figsize=(width * scale, height * scale), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    return figure


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write a figure as PNG, SVG or PDF, by its name; equal figures make equal files.

    Args:
        dpi: pixels an inch of a PNG, and of the images in the others.

    Raises:
        InputError: another suffix, or ``dpi`` out of range.
        OutputError: the file cannot be written; nothing is left under its name.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"path: expected a name ending in {', '.join(SUFFIXES)}, got {os.fspath(path)!r}")
    dpi = check_count("dpi", dpi, least=10, most=1200)
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "fastvae"}):
        figure.savefig(buffer, format=suffix[1:], dpi=dpi, metadata=DATES[suffix])
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
