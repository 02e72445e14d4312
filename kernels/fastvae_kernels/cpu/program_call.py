"""A program as a function of a few rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .row_program import RowProgram, Values

__all__ = ["ProgramCall"]

_Made: TypeAlias = list[NDArray[Any]]
_Kept: TypeAlias = tuple[NDArray[np.float32], _Made, Callable[[], int]]


class ProgramCall:
    """Steps as a function of a few rows; safe to call from several threads at once.

    Nothing is allocated but the results: where the rows and they lie meanwhile is kept for the next call.

    Args:
        program: all steps.
        given: the shape of a row.
        shapes: of a row of each result, and ``dtypes`` of each.
        values: what those of the rows have to be.
        most: rows of a call.
        threads: of a call, at most.
    """

    def __init__(
        self,
        program: RowProgram,
        given: tuple[int, ...],
        shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[np.dtype[Any]],
        values: Values,
        most: int,
        threads: int = 1,
    ) -> None:
        self.most = most
        self._program, self._given, self._shapes, self._dtypes = program, given, shapes, dtypes
        self._values, self._threads = values, threads
        self._idle: list[list[_Kept]] = [[] for _ in range(most + 1)]  # by number of rows

    def __call__(self, x: NDArray[np.float32]) -> list[NDArray[Any]] | None:
        """The results, each (rows, *shape), of at most `most` float32 rows (rows, *given).

        None if their values are not what they have to be. x may have any strides.
        """
        idle = self._idle[len(x)]
        try:
            own = idle.pop()
        except IndexError:
            own = self._new(len(x))
        given, made, call = own
        given[...] = x
        found = [array.copy() for array in made] if call() else None
        idle.append(own)
        return found

    def _new(self, rows: int) -> _Kept:
        given = np.empty((rows, *self._given), np.float32)
        made = [np.empty((rows, *shape), dtype) for shape, dtype in zip(self._shapes, self._dtypes, strict=True)]
        return given, made, self._program.call([given], made, self._values, self._threads)
