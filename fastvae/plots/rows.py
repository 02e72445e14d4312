"""Rows of data beside each other: samples, reconstructions, traversals.

Rows that are images are drawn as such. Rows of a table become lines of a heat map in which each feature is
standardised, since features have units of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastvae.errors import InputError
from fastvae.noise import check_count
from fastvae.plots import _figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 0.7  # inches of an image
GAP = 1  # pixels between images
MAX_FEATURES = 256
NAMED_FEATURES = 40
SPREAD = 3.0  # standard deviations at the ends of the heat maps' colours


@dataclass(frozen=True)
class Look:
    """How rows are drawn.

    Args:
        image_shape: (height, width) or (channels, height, width) of rows that come flattened; None: as they are.
        pixel_range: values of black and white.
        names: of the features of a table.
    """

    image_shape: Sequence[int] | None = None
    pixel_range: tuple[float, float] = (0.0, 1.0)
    names: Sequence[str] = ()


def grid(samples: NDArray[Any], *, columns: int | None = None, look: Look = Look()) -> Figure:
    """Samples as a grid of images; of a table as one heat map, each feature standardised over the samples.

    Args:
        samples: (rows, *input_shape), at least one.
        columns: images in a line; None: nearly square.

    Raises:
        InputError: rows that are neither images nor flat, or have too many features for a heat map.
        UnsupportedError: matplotlib is not installed.
    """
    rows = _rows("samples", samples, look)
    if rows.ndim == 2:
        figure, axes = _one(_width(rows), max(1.5, 0.2 * len(rows)))
        _heat(figure, [axes], [_standardised(rows, rows)], look)
        axes.set_ylabel("sample")
        return figure
    columns = math.ceil(math.sqrt(len(rows))) if columns is None else check_count("columns", columns, least=1)
    lines = math.ceil(len(rows) / columns)
    figure, axes = _one(columns * CELL, lines * CELL * rows.shape[2] / rows.shape[3])
    _show(axes, _mosaic(rows, lines, columns), look)
    axes.set_axis_off()
    return figure


def reconstructions(
    originals: NDArray[Any], reconstructed: NDArray[Any], *, columns: int = 10, look: Look = Look()
) -> Figure:
    """Each line of originals above the line of their reconstructions; of a table two heat maps.

    Features of a table are standardised by the originals.

    Args:
        originals, reconstructed: (rows, *input_shape), at least one.
        columns: images in a line.

    Raises: as :func:`grid`; InputError also if the two have not one shape.
    """
    above, below = _rows("originals", originals, look), _rows("reconstructed", reconstructed, look)
    if above.shape != below.shape:
        raise InputError(f"reconstructed: expected the shape of originals, {above.shape}, got {below.shape}")
    titles = ("originals", "reconstructions")
    if above.ndim == 2:
        figure = _figure.new(_width(above), 2 * max(1.5, 0.2 * len(above)))
        panels = list(figure.subplots(2, 1, sharex=True))
        _heat(figure, panels, [_standardised(part, above) for part in (above, below)], look)
        for axes, title in zip(panels, titles, strict=True):
            axes.set_ylabel(title)
        return figure
    columns = min(check_count("columns", columns, least=1), len(above))
    lines = math.ceil(len(above) / columns)
    height, width = above.shape[2:]
    figure, axes = _one(columns * CELL + 0.8, 2 * lines * CELL * height / width)
    pair = np.stack([_filled(part, lines * columns) for part in (above, below)])
    pair = pair.reshape(2, lines, columns, *above.shape[1:]).swapaxes(0, 1)
    _show(axes, _mosaic(pair.reshape(-1, *above.shape[1:]), 2 * lines, columns), look)
    axes.set_xticks([])
    axes.set_yticks(_centres(2 * lines, height), titles * lines)
    return figure


def traversal(decoded: NDArray[Any], labels: Sequence[str], scores: Sequence[float], *, look: Look = Look()) -> Figure:
    """A line for each latent dimension: what is decoded along it. Of a table a heat map each.

    Features of a table are standardised over all that is shown.

    Args:
        decoded: (dims, steps, *input_shape), such as ``fastvae.representation.traverse(...)[0]``.
        labels: of the dimensions.
        scores: of the steps.

    Raises: as :func:`grid`; InputError also if labels or scores are not as many as dims and steps.
    """
    if not isinstance(decoded, np.ndarray) or decoded.ndim < 3:
        raise InputError("decoded: expected a NumPy array (dims, steps, *input_shape)")
    dims, steps = decoded.shape[:2]
    if (len(labels), len(scores)) != (dims, steps):
        raise InputError(f"labels, scores: expected {dims} and {steps}, got {len(labels)} and {len(scores)}")
    rows = _rows("decoded", decoded.reshape(dims * steps, *decoded.shape[2:]), look)
    ticks = [f"{score:.3g}" for score in scores]
    if rows.ndim == 2:
        figure = _figure.new(_width(rows), dims * max(0.9, 0.15 * steps))
        panels = list(figure.subplots(dims, 1, sharex=True, squeeze=False)[:, 0])
        _heat(figure, panels, list(_standardised(rows, rows).reshape(dims, steps, -1)), look)
        for axes, label in zip(panels, labels, strict=True):
            axes.set_yticks([0, steps - 1], [ticks[0], ticks[-1]])
            axes.set_ylabel(label)
        return figure
    height, width = rows.shape[2:]
    figure, axes = _one(steps * CELL + 1.0, dims * CELL * height / width + 0.3)
    _show(axes, _mosaic(rows, dims, steps), look)
    axes.set_xticks(_centres(steps, width), ticks)
    axes.set_yticks(_centres(dims, height), labels)
    return figure


def _rows(name: str, x: Any, look: Look) -> NDArray[Any]:
    """Rows as images (rows, channels, height, width) or flat (rows, features)."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or x.ndim < 2 or not len(x):
        found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise InputError(f"{name}: expected a NumPy array of floats (rows, ...) with at least one row, got {found}")
    shape = tuple(x.shape[1:]) if look.image_shape is None else tuple(look.image_shape)
    if len(shape) == 2:
        shape = (1, *shape)
    if math.prod(shape) != math.prod(x.shape[1:]):
        raise InputError(f"image_shape: {shape} has not the {math.prod(x.shape[1:])} numbers of a row")
    if len(shape) == 3 and shape[0] in (1, 3):
        return x.reshape(len(x), *shape)
    if len(shape) > 1:
        raise InputError(f"{name}: rows of shape {shape} are neither grey nor RGB images; flatten them for a heat map")
    if shape[0] > MAX_FEATURES:
        raise InputError(
            f"{name}: {shape[0]} features are too many for a heat map, at most {MAX_FEATURES}; if they are the pixels "
            "of an image, say so with image_shape (--image 28x28)"
        )
    if look.names and len(look.names) != shape[0]:
        raise InputError(f"names: expected one for each of {shape[0]} features, got {len(look.names)}")
    return x


def _one(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _figure.new(width, height)
    return figure, figure.subplots()


def _width(rows: NDArray[Any]) -> float:
    return 2.5 + min(0.22 * int(rows.shape[1]), 9.0)


def _filled(rows: NDArray[Any], count: int) -> NDArray[Any]:
    """``rows`` and empty ones up to ``count``."""
    return np.concatenate([rows, np.full((count - len(rows), *rows.shape[1:]), np.nan, rows.dtype)])


def _mosaic(images: NDArray[Any], lines: int, columns: int) -> NDArray[Any]:
    """Images (n, channels, height, width) line by line as one (height, width, channels), NaN between them."""
    channels, height, width = images.shape[1:]
    canvas = np.full((lines * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), np.nan, images.dtype)
    for index, image in enumerate(images):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return canvas


def _centres(count: int, size: int) -> list[float]:
    """Where the middles of ``count`` images of ``size`` pixels lie along an axis of a mosaic."""
    return [index * (size + GAP) + (size - 1) / 2 for index in range(count)]


def _show(axes: Axes, mosaic: NDArray[Any], look: Look) -> None:
    """Draw a mosaic, white where it is NaN."""
    low, high = look.pixel_range
    unit = ((mosaic - low) / (high - low)).clip(0, 1)
    picture = unit[:, :, 0] if unit.shape[2] == 1 else np.nan_to_num(unit, nan=1.0)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)


def _standardised(rows: NDArray[Any], by: NDArray[Any]) -> NDArray[Any]:
    """Each feature less its mean over ``by``, in standard deviations; 0 where it does not vary."""
    spread = by.std(0)
    standardised: NDArray[Any] = np.divide(rows - by.mean(0), spread, out=np.zeros_like(rows), where=spread > 0)
    return standardised


def _heat(figure: Figure, panels: Sequence[Axes], values: Sequence[NDArray[Any]], look: Look) -> None:
    """A heat map of standardised rows in each panel, with one bar of colours."""
    for axes, rows in zip(panels, values, strict=True):
        drawn = axes.imshow(
            rows, cmap="RdBu_r", vmin=-SPREAD, vmax=SPREAD, aspect="auto", interpolation="nearest", origin="upper"
        )
        axes.set_yticks([])
    figure.colorbar(drawn, ax=list(panels), label="standard deviations")
    if look.names and len(look.names) <= NAMED_FEATURES:
        panels[-1].set_xticks(range(len(look.names)), look.names, rotation=90)
    else:
        panels[-1].set_xlabel("feature")
