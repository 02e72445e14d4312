"""The C library's allocator, where it is glibc's: large blocks as mappings of their own while memory is counted."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Numbers of mallopt's parameters, and the bytes from which on a block is large.
TRIM_THRESHOLD: Final = -1
MMAP_THRESHOLD: Final = -3
LARGE: Final = 2**18
# What glibc itself raises the threshold to as large blocks are freed: where it stays once it has been set by hand.
USUAL: Final = 2**25


class _Apart:
    """How many callers need it, for the whole process."""

    def __init__(self) -> None:
        self._lock, self._callers = threading.Lock(), 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Blocks of LARGE bytes and more go back to the system when they are freed.

        Otherwise those below 32 MiB may stay, in pieces beside what is needed next: up to twice the memory.
        """
        with self._lock:
            self._callers += 1
            if self._callers == 1:
                _set(MMAP_THRESHOLD, LARGE)
        try:
            yield
        finally:
            with self._lock:
                self._callers -= 1
                if not self._callers:
                    _set(MMAP_THRESHOLD, USUAL)
                    _set(TRIM_THRESHOLD, 2 * USUAL)


large_blocks_apart = _Apart()


def _set(parameter: int, value: int) -> None:
    """Set a parameter of glibc's allocator; nothing where there is another."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(parameter, value)
