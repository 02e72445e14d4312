"""The shortest way from a caller's rows to a verb's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastvae.layers import Shape
from fastvae.runtime.batching import blocks, even_parts
from fastvae.runtime.lifetime import Lifetime
from fastvae.runtime.memory import is_out_of_memory
from fastvae.runtime.results import Results
from fastvae.runtime.side_by_side import Sharing
from fastvae.runtime.values import is_clean
from fastvae_kernels.cpu import Values

FLOAT32 = np.dtype(np.float32)

# As a session's `run`: names of outputs, arrays by name, options.
Run: TypeAlias = Callable[[Sequence[str], Mapping[str, Any], Any], list[NDArray[Any]]]


class FewRows(Protocol):
    """The same as a DirectCall, for at most ``most`` rows of any strides."""

    most: int

    def __call__(self, x: Any) -> list[NDArray[Any]] | None: ...


class DirectCall:
    """From a caller's rows to a verb's outputs with as little in between as can be.

    A small model's session streams its weights through the caches, and every line of Python after it is read from
    memory again. Hence no calls in it that can be spared.

    Args:
        run: of a session.
        given: name and shape of a row of the input.
        asked: names of what ``run`` is asked for.
        shapes: of a row of each output, and ``dtypes`` of each.
        marked: whether the last output says which rows have a NaN that bytes do not show.
        limit: rows of a batch.
        values: what those of the input have to be.
        in_use: entered where there are several batches; a single one is over before anybody misses it.
        results: where the memory of the outputs of several batches comes from.
        alone: how several batches go side by side, and what gives the same call in a session of one thread for them;
            None where they go one after the other.
        few: what gives the same for a few rows, sooner; None where nothing does.
    """

    __slots__ = (
        "_alone",
        "_asked",
        "_dtypes",
        "_few",
        "_in_use",
        "_limit",
        "_marked",
        "_name",
        "_results",
        "_run",
        "_shape",
        "_shapes",
        "_values",
    )

    def __init__(
        self,
        run: Run,
        given: tuple[str, Shape],
        asked: Sequence[str],
        shapes: Sequence[Shape],
        dtypes: Sequence[np.dtype[Any]],
        marked: bool,
        limit: int,
        values: Values,
        in_use: Lifetime,
        results: Results,
        alone: Alone | None,
        few: FewRows | None = None,
    ) -> None:
        self._run = run
        self._name, self._shape = given
        self._asked, self._shapes = asked, shapes
        self._dtypes, self._marked = dtypes, marked
        self._limit, self._values, self._in_use, self._results = limit, values, in_use, results
        self._alone, self._few = alone, few

    def __call__(self, x: Any) -> list[NDArray[Any]] | None:
        """The outputs for clean float32 rows in C order; None for anything else, which takes the long way.

        None also where memory is short, as the long way does with less, and where a row is marked, as it says why.
        """
        if type(x) is not np.ndarray or x.dtype is not FLOAT32 or x.shape[1:] != self._shape:
            return None
        flags, rows, few = x.flags, len(x), self._few
        if few is not None and 0 < rows <= few.most:
            return few(x)
        if not (rows and flags.c_contiguous and flags.aligned):
            return None
        if rows > self._limit:
            return self.in_batches(rows, lambda low, high: x[low:high])
        if not is_clean(x, self._values):
            return None
        try:
            results = self._run(self._asked, {self._name: x}, None)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        if self._marked and results[-1].any():
            return None
        return results

    def in_batches(self, rows: int, batch: Callable[[int, int], Any]) -> list[NDArray[Any]] | None:
        """The outputs for many rows, of which ``batch`` gives low to high, as :meth:`__call__` takes them.

        Each batch is looked at just before it is run, while the caches hold it.
        """
        if rows <= self._limit:
            return self(batch(0, rows))
        with self._in_use:
            try:
                sizes = [(rows, *shape) for shape in self._shapes]
                results = [self._results.empty(*each) for each in zip(sizes, self._dtypes, strict=True)]
            except (MemoryError, ValueError):  # NumPy's words for more than any memory
                return None
            sharing, alone = self._alone or (None, None)
            shared = None if sharing is None else sharing.of(rows, self._limit)
            if shared is None or alone is None:
                done = all(self._fill(results, batch, *part) for part in even_parts(rows, self._limit))
            else:
                call, (threads, part) = alone(), shared
                done = not threads.run(lambda *part: call._fill(results, batch, *part), blocks(rows, part))
            return results if done else None

    def _fill(self, results: Sequence[NDArray[Any]], batch: Callable[[int, int], Any], low: int, high: int) -> bool:
        """Rows low to high of the results; whether they could be computed."""
        outputs = self(batch(low, high))
        if outputs is None:
            return False
        for result, output in zip(results, outputs, strict=True):
            result[low:high] = output
        return True


Alone: TypeAlias = tuple[Sharing, Callable[[], DirectCall]]
