"""Memory for large results, handed out again once a caller has let go of what was in it.

An array of tens of megabytes is fresh memory at every call, and the system fills each of its pages with zeros when it
is first written: that can cost more than computing what goes there. So the memory of a result that is gone serves the
next one, as ONNX Runtime's arena does for its own.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Smaller arrays are recycled by the C library; more than MOST_BYTES are not kept idle.
LEAST_BYTES, MOST_BYTES = 16 * 2**20, 512 * 2**20
FLOAT32 = np.dtype(np.float32)


class Results:
    """Arrays on recycled memory, of which at most ``most_bytes`` are kept idle, the last used.

    There is no lock: what gives memory back runs whenever an array dies, in the midst of anything, in any thread and
    in forked processes. Each access to the idle blocks is a single step of the interpreter.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._idle: dict[int, NDArray[np.uint8]] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any] = FLOAT32) -> NDArray[Any]:
        """An uninitialised array in C order.

        Raises:
            MemoryError, ValueError: there is no such memory, in NumPy's words.
        """
        count = math.prod(shape)
        size = dtype.itemsize * count
        if not LEAST_BYTES <= size <= self._most_bytes:
            return np.empty(shape, dtype)
        block = self._taken(size)
        flat = np.frombuffer(block.data, dtype, count)
        # All views, and tensors made of them, hold this array; when it goes, nobody can see the block.
        weakref.finalize(flat, self._give_back, block).atexit = False
        return flat.reshape(shape)

    def clear(self) -> None:
        """Free what is idle."""
        self._idle.clear()

    def close(self) -> None:
        """Free what is idle, and what is given back from now on."""
        self._most_bytes = 0
        self.clear()

    def _taken(self, size: int) -> NDArray[Any]:
        """An idle block of ``size`` bytes, or up to twice that; a new one where there is none."""
        for block in list(self._idle.values()):
            if size <= block.nbytes <= 2 * size and self._idle.pop(id(block), None) is not None:
                return block
        return np.empty(size, np.uint8)

    def _give_back(self, block: NDArray[np.uint8]) -> None:
        self._idle[id(block)] = block
        while sum(idle.nbytes for idle in list(self._idle.values())) > self._most_bytes:
            for oldest in list(self._idle)[:1]:
                self._idle.pop(oldest, None)
