"""Rows as points: latents in the plane, and histograms of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastvae.errors import InputError
from fastvae.noise import check_count
from fastvae.plots import _figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASSES = 20


def embedding(latents: NDArray[Any], labels: NDArray[Any] | None = None, dims: Sequence[int] | None = None) -> Figure:
    """Latents as points in the plane, coloured by ``labels``.

    Args:
        latents: (rows, ...), such as posterior means; at least 2 rows of at least 2 dimensions.
        labels: (rows,) texts or integers, of which up to 20 differ, get a colour and a line of the legend each; other
            numbers a bar of colours.
        dims: the two dimensions to show; None: two principal components, whose axes say their share of the variance.

    Raises:
        InputError: an argument of the wrong kind, shape or range, or more than 20 texts.
        UnsupportedError: matplotlib is not installed.
    """
    if not isinstance(latents, np.ndarray) or latents.dtype.kind != "f" or latents.ndim < 2 or len(latents) < 2:
        raise InputError("latents: expected a NumPy array of floats (rows, ...) with at least 2 rows")
    z = latents.reshape(len(latents), -1).astype(np.float64)
    if z.shape[1] < 2 or not np.isfinite(z).all():
        raise InputError("latents: expected at least 2 dimensions, without NaN and Inf")
    if labels is not None and np.shape(labels) != (len(z),):
        raise InputError(f"labels: expected one for each of {len(z)} rows, got shape {np.shape(labels)}")
    if dims is None:
        points, names = _principal(z)
    else:
        chosen = [check_count("dims", dim, most=z.shape[1] - 1) for dim in dims]
        if len(chosen) != 2:
            raise InputError(f"dims: expected two dimensions, got {len(chosen)}")
        points, names = z[:, chosen], [f"z{dim}" for dim in chosen]
    figure = _figure.new(6, 5)
    axes = figure.subplots()
    _scatter(figure, axes, points, None if labels is None else np.asarray(labels))
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    return figure


def scores(values: Mapping[str, NDArray[Any]], metric: str = "score", *, bins: int = 40) -> Figure:
    """Histograms of a score, one over the other in shares of their rows, with bins in common.

    Args:
        values: scores (rows,) by the name of their data; NaN is left out, and counted in the legend.
        metric: the label of the axis.

    Raises:
        InputError: no data, or one without a finite score; ``bins`` out of range.
        UnsupportedError: matplotlib is not installed.
    """
    bins = check_count("bins", bins, least=1, most=10_000)
    if not values:
        raise InputError("values: expected scores of at least one data set")
    finite = {name: np.asarray(x, np.float64).ravel() for name, x in values.items()}
    finite = {name: x[np.isfinite(x)] for name, x in finite.items()}
    for name, x in finite.items():
        if not len(x):
            raise InputError(f"values: {name!r} has no finite score")
    edges = np.histogram_bin_edges(np.concatenate(list(finite.values())), bins).tolist()
    figure = _figure.new(6, 4)
    axes = figure.subplots()
    for name, x in finite.items():
        lost = np.size(values[name]) - len(x)
        label = f"{name}, {len(x):,} rows" + (f", {lost:,} without a score" if lost else "")
        axes.hist(x, edges, weights=np.full(len(x), 1 / len(x)), alpha=0.6, label=label)
    axes.set_xlabel(metric)
    axes.set_ylabel("share of rows")
    axes.legend()
    return figure


def _principal(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[str]]:
    """The first two principal components, each with its largest loading positive, and their names."""
    centred = z - z.mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(np.take_along_axis(axes[:2], np.abs(axes[:2]).argmax(1)[:, None], 1))
    shares = singular[:2] ** 2 / max((singular**2).sum(), np.finfo(np.float64).tiny)
    return centred @ axes.T, [f"PC {number} ({share:.0%})" for number, share in enumerate(shares, 1)]


def _scatter(figure: Figure, axes: Axes, points: NDArray[np.float64], labels: NDArray[Any] | None) -> None:
    size: dict[str, Any] = {"s": 8.0, "linewidths": 0.0}
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], **size)
        return
    labels = labels.astype(str) if labels.dtype.kind == "O" else labels
    classes = np.unique(labels)
    if labels.dtype.kind == "f" or (len(classes) > MAX_CLASSES and labels.dtype.kind in "iu"):
        drawn = axes.scatter(points[:, 0], points[:, 1], c=labels.astype(np.float64), cmap="viridis", **size)
        figure.colorbar(drawn, ax=axes, label="label")
        return
    if len(classes) > MAX_CLASSES:
        raise InputError(f"labels: expected at most {MAX_CLASSES} different texts, got {len(classes)}; use numbers")
    import matplotlib

    colours = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    for label, colour in zip(classes, colours, strict=False):
        chosen = points[labels == label]
        axes.scatter(chosen[:, 0], chosen[:, 1], color=colour, label=str(label), **size)
    figure.legend(loc="outside right center", markerscale=2)
