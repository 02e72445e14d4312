"""Workers as a driver sees them: in its own process, on threads, or in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch

import fastvae
from fastvae import processes
from fastvae.api import VAE
from fastvae.bulk.data_rows import row_source
from fastvae.bulk.job import Job, check_numerics
from fastvae.bulk.opening import open_folder
from fastvae.bulk.place import JobFolder
from fastvae.bulk.source import RowSource
from fastvae.bulk.table import Rows
from fastvae.bulk.work import Unfit, Worker
from fastvae.errors import FastVAEError, JobError
from fastvae.files.dataset import Dataset
from fastvae.model import Model
from fastvae.runtime import Settings

# How long to wait for a worker on a thread to leave off: about a block.
PATIENCE = 2.0


class Hand(Protocol):
    """A worker: numbers of shards are sent to it, messages come out of its connection.

    ``loaded``: whether it has its model from the start, without saying so. ``hint``: what may be the matter if it dies
    before it has.
    """

    connection: Connection
    loaded: bool

    @property
    def hint(self) -> str:
        """See above."""

    def send(self, shard: int) -> None:
        """Give it a shard; OSError if it has died."""

    @property
    def waitable(self) -> Sequence[Any]:
        """What ``multiprocessing.connection.wait`` shall wait for: messages, and its death."""

    @property
    def alive(self) -> bool:
        """Whether it still works."""

    def stop(self) -> None:
        """Have it stop for good, without waiting for that."""

    def join(self) -> None:
        """Wait for a moment until a stopped one has ended."""


class Crew(Protocol):
    """Where workers come from."""

    def size(self) -> int:
        """How many there shall be."""

    def start(self, index: int) -> Hand:
        """The worker of a number, from 0; another in its place if it has died."""


class ThreadHand:
    """A worker on threads of this process."""

    loaded, hint = True, ""

    def __init__(self, job: Job, folder: JobFolder, source: RowSource) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self._thread = threading.Thread(target=Worker(theirs, job, folder, source).run, daemon=True)
        self._thread.start()

    def send(self, shard: int) -> None:
        """See :class:`Hand`."""
        self.connection.send(shard)

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

    def join(self) -> None:
        """See :class:`Hand`."""
        self._thread.join(PATIENCE)


@dataclass(frozen=True)
class Recipe:
    """What a process needs to make rows of a job: all of it can be sent there."""

    model: Model
    settings: Settings
    condition: Rows | None
    job: Job
    folder: Path | str
    data: Dataset | None = None

    def for_worker(self, index: int) -> Recipe:
        """The recipe for one of several workers: on GPUs, unless one was named, each has its own in turn."""
        settings = self.settings
        if settings.device == "cuda" and torch.cuda.device_count() > 1:
            settings = replace(settings, device=f"cuda:{index % torch.cuda.device_count()}")
        return replace(self, settings=settings)

    def place(self) -> JobFolder:
        """The job's folder."""
        return open_folder(self.folder)

    def source(self) -> RowSource:
        """The rows.

        Raises:
            JobError: they would be computed in another way than the job's, or by another version of fastvae.
        """
        if self.job.engine != fastvae.__version__:
            raise JobError(f"the job is one of fastvae {self.job.engine}, and here is {fastvae.__version__}")
        vae = VAE(self.model, self.settings)
        check_numerics(self.job, vae)
        return row_source(vae, self.condition, self.data)


class ProcessHand:
    """A worker in a process of its own; plain pickles, so that no memory is shared with it."""

    loaded = False
    hint = "a script must call this below if __name__ == '__main__':, and memory must suffice for all of them"

    def __init__(self, recipe: bytes, threads: int) -> None:
        context = processes.context()
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, recipe, threads, dict(os.environ)), daemon=True)
        with processes.interrupts_ignored():
            self._process.start()
        theirs.close()

    def send(self, shard: int) -> None:
        """See :class:`Hand`."""
        self.connection.send(shard)

    @property
    def waitable(self) -> Sequence[Any]:
        """See :class:`Hand`."""
        return [self.connection, self._process.sentinel]

    @property
    def alive(self) -> bool:
        """See :class:`Hand`."""
        return self._process.is_alive()

    def stop(self) -> None:
        """See :class:`Hand`; a process may die at any time without harm."""
        self._process.kill()

    def join(self) -> None:
        """See :class:`Hand`."""
        self._process.join()
        self.connection.close()


def work(connection: Connection, recipe: bytes, threads: int, environment: dict[str, str]) -> None:
    """The whole life of a worker's process; it ends as soon as its driver is gone.

    ``environment`` is the driver's, and takes the place of that of the server which the process was forked from.
    """
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver gets it as well, and decides
    torch.set_num_threads(threads)
    found: Recipe = pickle.loads(recipe)
    try:
        source = found.source()
    except FastVAEError as error:
        connection.send(Unfit(str(error)))
    else:
        Worker(connection, found.job, found.place(), source).run(wait=False)
    os._exit(0)


@dataclass(frozen=True)
class Threads:
    """One worker, on threads of this process."""

    job: Job
    folder: JobFolder
    source: RowSource

    def size(self) -> int:
        """See :class:`Crew`."""
        return 1

    def start(self, index: int) -> Hand:
        """See :class:`Crew`."""
        return ThreadHand(self.job, self.folder, self.source)


@dataclass(frozen=True)
class Processes:
    """Workers in processes on this machine, each with so many threads."""

    recipe: Recipe
    workers: int
    threads: int

    def size(self) -> int:
        """See :class:`Crew`."""
        return self.workers

    def start(self, index: int) -> Hand:
        """See :class:`Crew`."""
        return ProcessHand(pickle.dumps(self.recipe.for_worker(index)), self.threads)
