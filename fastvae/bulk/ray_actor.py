"""What runs in a Ray actor's process: a worker that is called."""

from __future__ import annotations

import pickle
import queue
import socket
import threading
from concurrent.futures import Future
from typing import Protocol

import torch

from fastvae.bulk.job import Job
from fastvae.bulk.place import JobFolder, Record
from fastvae.bulk.source import RowSource
from fastvae.bulk.work import Failed, Message, Ready, Unfit, Worker
from fastvae.errors import FastVAEError, JobError


class Ingredients(Protocol):
    """What an actor makes rows of: :class:`fastvae.bulk.pool.Recipe`."""

    @property
    def job(self) -> Job:
        """The job."""

    def place(self) -> JobFolder:
        """Its folder."""

    def source(self) -> RowSource:
        """The rows; FastVAEError if they would not be the job's."""


class Seat:
    """What an actor is: a worker whose line to the driver is made of calls."""

    def __init__(self, recipe: bytes, threads: int) -> None:
        self._recipe, self._threads = recipe, threads
        self._numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._answers: dict[int, Future[Message]] = {}
        self._worker: threading.Thread | None = None
        self._left = threading.Event()

    def load(self) -> Message:
        """Load the model; Unfit if its rows would not be the job's, or not in the job's folder."""
        torch.set_num_threads(self._threads)
        try:
            recipe: Ingredients = pickle.loads(self._recipe)
            folder, source = recipe.place(), recipe.source()
            _check_seen(folder, recipe.job)
        except FastVAEError as error:
            return Unfit(f"on {socket.gethostname()}: {error}")
        self._recipe = b""
        self._worker = threading.Thread(target=Worker(self, recipe.job, folder, source).run, daemon=True)
        self._worker.start()
        return Ready()

    def make(self, shard: int) -> Message:
        """Make a shard."""
        answer = self._answers[shard] = Future()
        self._numbers.put(shard)
        return answer.result()

    def live(self) -> None:
        """Wait until it has left: a call that breaks off when the actor dies."""
        self._left.wait()

    def leave(self) -> None:
        """Leave off; whatever is unfinished leaves nothing."""
        self._numbers.put(None)
        if self._worker is not None:
            self._worker.join()
        self._left.set()

    def recv(self) -> int:
        """See :class:`fastvae.bulk.work.Line`."""
        shard = self._numbers.get()
        if shard is None:
            raise EOFError
        return shard

    def send(self, message: Message) -> None:
        """See :class:`fastvae.bulk.work.Line`."""
        if isinstance(message, Record | Failed):
            self._answers.pop(message.shard).set_result(message)


def _check_seen(folder: JobFolder, job: Job) -> None:
    """Refuse a folder that is not the driver's.

    Raises:
        JobError: it does not hold the job.
    """
    try:
        found = folder.job().id
    except JobError as error:
        raise JobError(f"{error}; it must be on storage that all nodes see") from error
    if found != job.id:
        raise JobError(f"{folder.path}: holds another job here; it must be on storage that all nodes see")
