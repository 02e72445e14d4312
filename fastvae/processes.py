"""Processes that begin with PyTorch and fastvae imported: forks of a server that has imported them once.

It is multiprocessing's own server for forks, which knows nothing of this process: no thread, lock or GPU of it is
inherited. Where there is none, processes are started afresh, and each imports what it needs.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Final

PRELOADED: Final = ["__main__", "fastvae.bulk.preloaded"]


def context() -> ForkServerContext | SpawnContext:
    """What starts a worker's process: its ``Process`` and ``Pipe``."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


def begin() -> None:
    """Start the server, where there is one: it imports while this process goes on with something else."""
    if sys.platform == "linux":
        from multiprocessing import forkserver

        context()
        with interrupts_ignored():
            forkserver.ensure_running()


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """What is started inside ignores Ctrl-C from its first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """Around imports of what stays until the process ends: nobody looks for garbage in it, neither now nor later.

    PyTorch alone makes enough objects for many such looks; and a look writes to all of them, which forks then no longer
    share.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
