"""Internal batches side by side, one a thread, where sharing the work of each between threads would be slower.

Threads that share a batch meet at every operator. That pays only where operators are long, or the threads spin between
them, which takes the cores from everybody else: noise, a writer, another model. With a whole batch a thread they meet
once. Everything that a batch calls is then kept to its thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch

from fastvae.runtime.batching import TILE, shared_part


class SerialThreads:
    """Threads in which PyTorch's operators run in that thread alone."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, "fastvae", _become_serial)
        # All of them, now: PyTorch's number of threads is each thread's own, but also what later ones begin with.
        before = torch.get_num_threads()
        all_there = threading.Barrier(count)
        wait([self._pool.submit(all_there.wait) for _ in range(count)])
        torch.set_num_threads(before)

    def run(self, call: Callable[[int, int], bool], ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """``call`` for each of the ranges; those for which it said False.

        What a call raises is raised here, once no other is under way.
        """
        futures: dict[tuple[int, int], Future[bool]] = {part: self._pool.submit(call, *part) for part in ranges}
        try:
            return [part for part, future in futures.items() if not future.result()]
        finally:
            for future in futures.values():
                future.cancel()
            wait(futures.values())


@dataclass(frozen=True)
class Sharing:
    """How many ``threads`` take batches side by side, and whether also where all rows would fit in one batch."""

    threads: int
    always: bool

    def of(self, rows: int, size: int) -> tuple[SerialThreads, int] | None:
        """What runs ``rows`` in batches of at most ``size`` side by side, and how many each has.

        None where they are run one after the other.
        """
        if self.threads == 1 or rows <= (TILE if self.always else size):
            return None
        threads = serial_threads(self.threads)
        return None if threads is None else (threads, shared_part(rows, size, self.threads))


def serial_threads(count: int) -> SerialThreads | None:
    """The process's ``count`` threads; None for a single one, and inside one of them, which would wait for itself."""
    if count < 2 or in_serial_thread():
        return None
    with _lock:
        if count not in _known:
            _known[count] = SerialThreads(count)
        return _known[count]


def in_serial_thread() -> bool:
    """Whether this is one of those threads."""
    return getattr(_here, "serial", False)


def work_in_company() -> None:
    """This thread has others beside it that need processors, a writer, say: who helps it does not spin in between."""
    _here.company = True


def in_company() -> bool:
    """Whether this is such a thread."""
    return getattr(_here, "company", False)


def _become_serial() -> None:
    _here.serial = True
    torch.get_num_threads()  # a thread's first look sets its number to everybody's: not after this
    torch.set_num_threads(1)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _known.clear()  # threads do not survive a fork


_here = threading.local()
_lock = threading.Lock()
_known: dict[int, SerialThreads] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
