"""What the files of a job hold: named columns of arrays, block by block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]
# The dtype of a column of strings, whose arrays are of objects; and what one is taken to need.
TEXT: Final = "text"
TEXT_BYTES = 32


@dataclass(frozen=True)
class Column:
    """A column: its name, NumPy's name of its dtype or ``text``, and the shape of one row's value."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of one row."""
        if self.dtype == TEXT:
            return TEXT_BYTES
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape) or ''}"


@dataclass(frozen=True)
class Rejected:
    """A row of the input that has no result: its index, its ids by name, and what is wrong with it."""

    index: int
    ids: Mapping[str, Any]
    reason: str


@dataclass(frozen=True)
class Block:
    """Rows in the order of their indices, from ``start`` on: an array (rows, ...) for every column of the job.

    Those ``rejected`` are NaN.
    """

    start: int
    columns: Mapping[str, Rows]
    rejected: Sequence[Rejected] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, column: Column) -> Rows:
        """A column as contiguous memory.

        Raises:
            AssertionError: it is not as the job says.
        """
        rows = np.ascontiguousarray(self.columns[column.name])
        dtype = "object" if column.dtype == TEXT else column.dtype
        if rows.dtype != dtype or rows.shape != (len(self), *column.shape):
            raise AssertionError(
                f"column {column.name}: {rows.dtype} {rows.shape[1:]}, not {column.dtype} {column.shape}"
            )
        return rows

    def __getitem__(self, place: slice) -> Block:
        low, high, _ = place.indices(len(self))
        rejected = [row for row in self.rejected if low <= row.index - self.start < high]
        return Block(self.start + low, {name: rows[place] for name, rows in self.columns.items()}, rejected)
