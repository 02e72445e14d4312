"""Iterators read ahead in a thread, so that a caller's reading and the model's computing happen at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class _End:
    """The end of an iterator, and the exception that ended it, if any."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def ahead(items: Iterable[T], depth: int) -> Generator[T]:
    """The same items, of which a thread holds up to ``depth`` before they are asked for; 0 reads without a thread.

    What ``items`` raises is raised in its turn. Closing the iterator ends the thread and closes ``items``.
    """
    if depth == 0:
        yield from items
        return
    found: queue.Queue[T | _End] = queue.Queue(depth)
    stopped = threading.Event()
    reader = threading.Thread(target=_read, args=(items, found, stopped), daemon=True, name="fastvae-ahead")
    reader.start()
    try:
        while not isinstance(item := found.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        with suppress(queue.Empty):  # room for what it waits to hand over
            while True:
                found.get_nowait()
        reader.join()


def _read(items: Iterable[T], found: queue.Queue[T | _End], stopped: threading.Event) -> None:
    """Put ``items`` into the queue ``found``, then their end, until it is ``stopped``."""
    end = _End()
    iterator = iter(items)
    try:
        for item in iterator:
            if stopped.is_set():
                break
            found.put(item)
    except BaseException as error:  # whatever it is belongs to who asks for the next item
        end = _End(error)
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
    if not stopped.is_set():
        found.put(end)
