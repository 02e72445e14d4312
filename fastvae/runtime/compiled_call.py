"""The shortest way from a caller's rows into the compiled kernels and to a verb's outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastvae.layers import Shape
from fastvae.runtime.batching import blocks
from fastvae.runtime.lifetime import Lifetime
from fastvae.runtime.results import Results
from fastvae.runtime.row_steps import RowSteps
from fastvae.runtime.side_by_side import in_company, in_serial_thread
from fastvae_kernels.cpu import ProgramCall, Values

FLOAT32 = np.dtype(np.float32)
# Rows of a call between arrays that are kept, and bytes of those: more are read where they lie.
MOST_ROWS, MOST_BYTES = 32, 2**18


class CompiledCall:
    """From a caller's rows to a verb's outputs with nothing in between but the steps.

    Args:
        steps: all of them, on a single input.
        shape: of a row of it.
        marked: whether the last output says which rows have a NaN that bytes do not show.
        limit: rows after which a call looks around, for an interrupt, say.
        values: what those of the input have to be.
        in_use: entered where a call is longer than that.
        results: where the memory of the outputs comes from.
        threads: of a call.
    """

    def __init__(
        self,
        steps: RowSteps,
        shape: Shape,
        marked: bool,
        limit: int,
        values: Values,
        in_use: Lifetime,
        results: Results,
        threads: int,
    ) -> None:
        self._program, self._shapes, self._dtypes = steps.program, steps.shapes, steps.dtypes
        self._shape, self._marked, self._limit, self._values = shape, marked, limit, values
        self._in_use, self._results, self._threads = in_use, results, threads
        row = 4 * math.prod(shape)
        row += sum(t.itemsize * math.prod(s) for s, t in zip(steps.shapes, steps.dtypes, strict=True))
        self._most = min(MOST_ROWS, MOST_BYTES // row, limit)
        self._few = ProgramCall(steps.program, shape, steps.shapes, steps.dtypes, values, self._most, threads)

    def __call__(self, x: Any) -> list[NDArray[Any]] | None:
        """The outputs for clean float32 rows; None for anything else, which takes the long way.

        None also where memory is short, as the long way does with less, and where a row is marked, as it says why.
        """
        if type(x) is not np.ndarray or x.dtype is not FLOAT32 or x.shape[1:] != self._shape:
            return None
        rows = len(x)
        if 0 < rows <= self._most and not in_serial_thread():
            try:
                results = self._few(x)
            except MemoryError:
                return None
            return None if results is None or (self._marked and results[-1].any()) else results
        if not (rows and x.flags.c_contiguous and x.flags.aligned):
            return None
        return self.in_batches(rows, lambda low, high: x[low:high])

    def in_batches(self, rows: int, batch: Callable[[int, int], Any]) -> list[NDArray[Any]] | None:
        """The outputs for many rows, of which ``batch`` gives low to high, as :meth:`__call__` takes them."""
        if rows <= self._most and not in_serial_thread():
            return self(batch(0, rows))
        try:
            sizes = [(rows, *shape) for shape in self._shapes]
            results = [self._results.empty(*each) for each in zip(sizes, self._dtypes, strict=True)]
        except (MemoryError, ValueError):  # NumPy's words for more than any memory
            return None
        if rows <= self._limit:
            return results if self._fill(results, batch, 0, rows) else None
        with self._in_use:
            done = all(self._fill(results, batch, *part) for part in blocks(rows, self._limit))
        return results if done else None

    def _fill(self, results: Sequence[NDArray[Any]], batch: Callable[[int, int], Any], low: int, high: int) -> bool:
        """Rows low to high of the results; whether they could be computed."""
        threads = 1 if in_serial_thread() else self._threads
        made = [result[low:high] for result in results]
        try:
            done = self._program.run([batch(low, high)], made, self._values, threads, sleep=in_company())
        except MemoryError:
            return False
        return done and not (self._marked and made[-1].any())
