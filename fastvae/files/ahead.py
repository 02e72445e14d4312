"""Reading rows before they are asked for: decoding images in threads while the model computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from fastvae.files._common import Values
from fastvae.files.source import Source

# Blocks that are being read while one is used.
DEPTH = 2
MOST_THREADS = 16


def default_threads() -> int:
    """Threads that decode images unless told otherwise: one for each core this process may use, up to MOST_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_THREADS, cores)


@dataclass(frozen=True)
class _Reading:
    """A block on its way: memory that tasks fill, each one row."""

    low: int
    values: Values
    tasks: list[Future[None]]

    def finished(self) -> Values:
        for task in self.tasks:
            task.result()
        return self.values


def read_ahead(
    source: Source, ranges: Iterable[tuple[int, int]], *, threads: int | None = None
) -> Generator[tuple[int, Values]]:
    """The index of the first row, and the rows, of each of ``ranges`` (low, high) of ``source``, in that order.

    DEPTH blocks are read beforehand, row by row in ``threads`` threads, where reading is decoding; all others are read
    when their turn comes. What reading raises is raised in its turn.
    """
    if not source.decodes:
        for low, high in ranges:
            yield low, source.block(low, high)
        return
    with _pool(threads or default_threads()) as pool:
        waiting: deque[_Reading] = deque()
        for low, high in ranges:
            waiting.append(_begun(pool, source, low, high))
            if len(waiting) > DEPTH:
                reading = waiting.popleft()
                yield reading.low, reading.finished()
        for reading in waiting:
            yield reading.low, reading.finished()


class _pool(ThreadPoolExecutor):  # noqa: N801 - used as a context manager only
    """A pool that forgets on leaving what it has not begun."""

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)


def _begun(pool: ThreadPoolExecutor, source: Source, low: int, high: int) -> _Reading:
    values = np.empty((high - low, *source.shape[1:]), np.float32)

    def read(row: int) -> None:
        values[row] = source.block(low + row, low + row + 1)[0]

    return _Reading(low, values, [pool.submit(read, row) for row in range(high - low)])
