"""A table of steps as something to call, on any number of rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from ctypes import byref, c_int64, c_void_p
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .library import RowCall, library

__all__ = ["LANES", "MADE", "MOST_MADE", "RowProgram", "Values", "aligned"]

# As in the source: outputs of a panel of weights, rows of a tile, and the places of results.
LANES, _MOST_ROWS, MADE, MOST_MADE = 16, 192, -64, 64
# Rows that fill the registers of a block, floats that a tile's rows make, within a core's second cache, and
# multiplications that are worth a thread.
_BLOCK, _TILE_ROOM, _LEAST = 12, 2**18, 2**20
_LINE = 64
_VALUES = ("any", "finite", "unit interval")

Values: TypeAlias = Literal["any", "finite", "unit interval"]
_Arrays: TypeAlias = Sequence[NDArray[Any]]


class RowProgram:
    """Steps with the places of what they make; safe to run from several threads at once.

    ``products`` is how many multiplications they are for a row, ``bytes`` what the weights take that they point to, and
    ``scratch_bytes`` what each thread's images do.
    """

    def __init__(
        self, steps: Any, places: Sequence[int], kept: _Arrays, *, scratch: int, room: int, products: int
    ) -> None:
        self.products, self.bytes, self.scratch_bytes = products, sum(array.nbytes for array in kept), 4 * scratch
        self._steps, self._places, self._kept = steps, (c_int64 * len(places))(*places), list(kept)
        self._scratch, self._room = scratch, room
        self._tile = min(max(_TILE_ROOM // max(room, 1) // _BLOCK, 1) * _BLOCK, _MOST_ROWS)
        self._idle: defaultdict[int, list[RowCall]] = defaultdict(list)  # by threads

    def call(self, given: _Arrays, made: _Arrays, values: Values = "any", threads: int = 1) -> Callable[[], int]:
        """What does the steps from the arrays `given` to those `made`, each time it is called; not twice at once.

        It says 0, and what it made is to be thrown away, where values of the first of `given` are not what they have to
        be. All arrays are in C order, and are not kept, their addresses are; the given ones are float32 (rows, *shape),
        those made have the results. Of fewer rows than these the first comes again after the last.
        """
        rows = _rows(given, made)
        threads, tile = self._shares(max(rows, 1), threads)
        call = self._bound(given, made, tile, threads)
        call.rows, call.values = rows, _VALUES.index(values)
        call.program = self  # lives as long as what points to its weights
        return partial(library().fastvae_row_steps, byref(call))

    def run(
        self, given: _Arrays, made: _Arrays, values: Values = "any", threads: int = 1, *, sleep: bool = False
    ) -> bool:
        """:meth:`call`, once, in memory that is kept for the next time.

        With ``sleep`` the other threads sleep in between. PyTorch's spin, and so begin sooner, in the way of others.
        """
        rows = _rows(given, made)
        if not rows:
            return True
        threads, tile = self._shares(rows, threads)
        idle = self._idle[threads]
        try:
            call = idle.pop()
        except IndexError:
            call = self._bound(given, made, self._tile, threads)
        try:
            for index, array in enumerate(given):
                call.given[index], call.given_rows[index] = array.ctypes.data, len(array)
            for index, array in enumerate(made):
                call.made[index] = array.ctypes.data
            call.rows, call.tile, call.values = rows, tile, _VALUES.index(values)
            call.apart = sleep
            return bool(library().fastvae_row_steps(byref(call)))
        finally:
            idle.append(call)

    def release(self) -> None:
        """Give back the memory that is kept."""
        self._idle.clear()

    def _bound(self, given: _Arrays, made: _Arrays, tile: int, threads: int) -> RowCall:
        """A call between these arrays, with memory for tiles of so many rows."""
        rooms = [aligned(self._scratch + tile * self._room) for _ in range(threads)]
        call = RowCall(
            steps=self._steps,
            given=(c_void_p * len(given))(*(array.ctypes.data for array in given)),
            given_rows=(c_int64 * len(given))(*map(len, given)),
            columns=(c_int64 * len(given))(*(math.prod(array.shape[1:]) for array in given)),
            made=(c_void_p * len(made))(*(array.ctypes.data for array in made)),
            places=self._places,
            bytes=(c_int64 * len(made))(*(array.itemsize * math.prod(array.shape[1:]) for array in made)),
            rooms=(c_void_p * threads)(*(room.ctypes.data for room in rooms)),
            count=len(self._steps),
            outputs=len(made),
            scratch=self._scratch,
            room=self._room,
            tile=tile,
            threads=threads,
            apart=0,
        )
        call.memory = rooms  # lives as long as what points to it; so does not the program, which keeps calls
        return call

    def _shares(self, rows: int, threads: int) -> tuple[int, int]:
        """How many threads take so many rows, at least one, and how many of them at a time."""
        threads = max(1, min(threads, rows, rows * self.products // _LEAST))
        tiles = -(-rows // (self._tile * threads)) * threads  # as many for each, if nobody is in their way
        return threads, min(-(-rows // tiles // _BLOCK) * _BLOCK, self._tile)


def aligned(count: int) -> NDArray[np.float32]:
    """So many zeros, from the beginning of a cache line on."""
    own = np.zeros(count + _LINE // 4, np.float32)
    first = -own.ctypes.data % _LINE // 4
    return own[first : first + count]


def _rows(given: _Arrays, made: _Arrays) -> int:
    return len(made[0]) if made else len(given[0])
