"""What the files of a job hold: named columns of arrays, block by block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]


@dataclass(frozen=True)
class Column:
    """A column: its name, NumPy's name of its dtype, and the shape of one row's value."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of one row."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape) or ''}"


@dataclass(frozen=True)
class Block:
    """Rows in the order of their indices, from ``start`` on: an array (rows, ...) for every column of the job."""

    start: int
    columns: Mapping[str, Rows]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, column: Column) -> Rows:
        """A column as contiguous memory.

        Raises:
            AssertionError: it is not as the job says.
        """
        rows = np.ascontiguousarray(self.columns[column.name])
        if rows.dtype != column.dtype or rows.shape != (len(self), *column.shape):
            raise AssertionError(
                f"column {column.name}: {rows.dtype} {rows.shape[1:]}, not {column.dtype} {column.shape}"
            )
        return rows

    def __getitem__(self, place: slice) -> Block:
        low = place.indices(len(self))[0]
        return Block(self.start + low, {name: rows[place] for name, rows in self.columns.items()})
