"""Workers as a driver sees them: in its own process, on threads, or in processes of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch

from fastvae.api import VAE
from fastvae.bulk.data_rows import row_source
from fastvae.bulk.folder import Folder
from fastvae.bulk.job import Job, check_numerics
from fastvae.bulk.source import RowSource
from fastvae.bulk.table import Rows
from fastvae.bulk.work import Worker
from fastvae.files.dataset import Dataset
from fastvae.model import Model
from fastvae.runtime import Settings

# How long to wait for a worker on a thread to leave off: about a block.
PATIENCE = 2.0


class Hand(Protocol):
    """A worker: numbers of shards go into its connection, messages come out."""

    connection: Connection

    @property
    def waitable(self) -> Sequence[Any]:
        """What ``multiprocessing.connection.wait`` shall wait for: messages, and its death."""

    @property
    def alive(self) -> bool:
        """Whether it still works."""

    def stop(self) -> None:
        """Stop it, at once and for good."""


class ThreadHand:
    """A worker on threads of this process."""

    def __init__(self, job: Job, folder: Folder, source: RowSource) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self._thread = threading.Thread(target=Worker(theirs, job, folder, source).run, daemon=True)
        self._thread.start()

    @property
    def waitable(self) -> Sequence[Any]:
        """See :class:`Hand`."""
        return [self.connection]

    @property
    def alive(self) -> bool:
        """See :class:`Hand`."""
        return True

    def stop(self) -> None:
        """See :class:`Hand`."""
        self.connection.close()
        self._thread.join(PATIENCE)


@dataclass(frozen=True)
class Recipe:
    """What a process needs to make rows of a job: all of it can be sent there."""

    model: Model
    settings: Settings
    condition: Rows | None
    job: Job
    folder: Path
    data: Dataset | None = None

    def for_worker(self, index: int) -> Recipe:
        """The recipe for one of several workers: on GPUs, unless one was named, each has its own in turn."""
        settings = self.settings
        if settings.device == "cuda" and torch.cuda.device_count() > 1:
            settings = replace(settings, device=f"cuda:{index % torch.cuda.device_count()}")
        return replace(self, settings=settings)

    def source(self) -> RowSource:
        """The rows.

        Raises:
            JobError: they would be computed in another way than the job's.
        """
        vae = VAE(self.model, self.settings)
        check_numerics(self.job, vae)
        return row_source(vae, self.condition, self.data)


class ProcessHand:
    """A worker in a process of its own, started afresh; plain pickles, so that no memory is shared with it."""

    def __init__(self, recipe: bytes, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, recipe, threads), daemon=True)
        with _interrupts_ignored():
            self._process.start()
        theirs.close()

    @property
    def waitable(self) -> Sequence[Any]:
        """See :class:`Hand`."""
        return [self.connection, self._process.sentinel]

    @property
    def alive(self) -> bool:
        """See :class:`Hand`."""
        return self._process.is_alive()

    @property
    def process_id(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    def stop(self) -> None:
        """See :class:`Hand`; a process may die at any time without harm."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def work(connection: Connection, recipe: bytes, threads: int) -> None:
    """The whole life of a worker's process; it ends as soon as its driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver gets it as well, and decides
    torch.set_num_threads(threads)
    found: Recipe = pickle.loads(recipe)
    Worker(connection, found.job, Folder(found.folder), found.source()).run(wait=False)
    os._exit(0)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """What is started inside ignores Ctrl-C from its first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
