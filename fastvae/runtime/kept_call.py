"""A session on a few rows, between arrays that are kept.

Of a small call much is what a session does for itself: it looks at each input, and makes each output's memory and its
array. Here both lie where they lay before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastvae.layers import Shape
from fastvae.runtime.last_steps import LastSteps
from fastvae.runtime.memory import is_out_of_memory
from fastvae.runtime.values import is_clean
from fastvae_kernels.cpu import StepTable, Values, why_not

# Rows at most, and bytes of what is kept for a call, which is copied once more than without: a few microseconds of it.
MOST_ROWS = 32
MOST_BYTES = 2**18

# What is kept: the input's array and those of the outputs; what runs the session, and what comes after it and tells
# whether the input's values are what they have to be; the session's own outputs, which nothing else may hold.
_Arrays: TypeAlias = Sequence[NDArray[Any]]
_Kept: TypeAlias = tuple[NDArray[np.float32], _Arrays, Callable[[], None], Callable[[], int], _Arrays]


class KeptCall:
    """A session as a function of a few rows; safe to call from several threads at once.

    Args:
        given: name and shape of a row of the input.
        outputs: the same of each of the session's outputs, and ``dtypes`` of each.
        marked: whether the last output says which rows have a NaN that bytes do not show.
        last: what comes after the session; None where nothing does.
        values: what those of the input have to be.
        limit: rows of a call.
    """

    def __init__(
        self,
        session: Any,
        given: tuple[str, Shape],
        outputs: Mapping[str, Shape],
        dtypes: Sequence[np.dtype[Any]],
        marked: bool,
        last: LastSteps | None,
        values: Values,
        limit: int,
    ) -> None:
        self._session, self._given, self._outputs, self._dtypes = session, given, outputs, dtypes
        self._marked, self._last, self._values = marked, last, values
        sizes = [4 * math.prod(given[1])]
        sizes += [dtype.itemsize * math.prod(shape) for shape, dtype in zip(outputs.values(), dtypes, strict=True)]
        self.most = min(MOST_ROWS, MOST_BYTES // sum(sizes), limit)
        self._idle: list[list[_Kept]] = [[] for _ in range(self.most + 1)]

    def __call__(self, x: NDArray[np.float32]) -> list[NDArray[Any]] | None:
        """The outputs of 1 to ``most`` float32 rows of any strides; None as of :class:`DirectCall`."""
        idle = self._idle[len(x)]
        try:
            own = idle.pop()
        except IndexError:
            own = self._new(len(x))
        given, made, compute, finish, _ = own
        given[...] = x
        try:
            compute()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        found = [array.copy() for array in made] if finish() else None
        idle.append(own)
        return None if found is None or (self._marked and found[-1].any()) else found

    def _new(self, rows: int) -> _Kept:
        name, shape = self._given
        given = np.empty((rows, *shape), np.float32)
        made = [np.empty((rows, *s), d) for s, d in zip(self._outputs.values(), self._dtypes, strict=True)]
        binding = self._session.io_binding()
        binding.bind_input(name, "cpu", 0, np.float32, given.shape, given.ctypes.data)
        for output, array in zip(self._outputs, made, strict=True):
            binding.bind_output(output, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        compute = partial(self._session.run_with_iobinding, binding)
        if self._last is not None:
            scores, finish = self._last.call([given, *made], self._values)
            return given, scores, compute, finish, made
        finish = partial(is_clean, given, self._values)
        if why_not() is None:
            finish = StepTable().program((), ()).call([given], (), self._values)
        return given, made, compute, finish, made
