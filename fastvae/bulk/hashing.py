"""Hashing files in threads, told of while it takes time, and stopped at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from fastvae.bulk.progress import EVERY
from fastvae.files.dataset import Told

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 - no error
    """Nobody waits for the hashes any more."""


class Count:
    """Bytes that several threads have hashed, until they are to stop."""

    def __init__(self) -> None:
        self.done = 0
        self.stopped = threading.Event()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """So many more.

        Raises:
            Stopped: hash no more.
        """
        with self._lock:
            self.done += count
        if self.stopped.is_set():
            raise Stopped


def in_threads(works: Sequence[Callable[[Count], T]], threads: int, total: int, watch: Told) -> list[T]:
    """What each of ``works``, in their order, returns, which hashes files and adds what it has hashed to a count.

    ``watch`` is called, in this thread, with the bytes that are done and the ``total``: every second, if it takes
    longer than one. Whatever is raised meanwhile, Ctrl-C too, stops all of it at once.
    """
    count = Count()
    with ThreadPoolExecutor(threads) as pool:
        try:
            tasks = [pool.submit(work, count) for work in works]
            waiting, told = set(tasks), False
            while waiting:
                done, waiting = wait(waiting, EVERY, FIRST_EXCEPTION)
                for task in done:
                    task.result()
                if told := told or bool(waiting):
                    watch(count.done, total)
        finally:
            count.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return [task.result() for task in tasks]
