"""How far a job is, and what its workers are at: what is told while its input is read, and after every shard."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from fastvae.bulk.job import Job
from fastvae.files.dataset import Told

# Seconds between two words about how far reading an input is.
EVERY: Final = 1.0

At: TypeAlias = Literal["loading", "working", "idle"]
Event: TypeAlias = Literal[
    "index", "hash", "recheck", "start", "ready", "shard", "retry", "failed", "worker", "stop", "done"
]


@dataclass(frozen=True)
class WorkerState:
    """What a worker is at.

    Args:
        number: its place, from 0; a worker that replaces another has the same.
        state: ``loading``, until it has its model; ``working``; ``idle``, without a shard.
        shards: those it holds, in the order they were given.
        done: shards made at this place in this run.
        replaced: how many died at it.
    """

    number: int
    state: At
    shards: tuple[int, ...]
    done: int
    replaced: int


@dataclass(frozen=True)
class Progress:
    """The state of a job at an event.

    Args:
        event: ``index``, ``hash`` and ``recheck``, every second while the input's rows are counted, its files are
            hashed, or shards that are there, each if that takes longer than one; ``start``; ``ready``, a worker other
            than this process has its model; ``shard``, one is done; ``retry``, one failed and is tried again;
            ``failed``, for good; ``worker``, one died and is replaced; ``stop``, Ctrl-C came, and workers are told to
            leave off; ``done``.
        samples, shards: on the disk by now, those of earlier runs included; a sample is a row. None are known of in
            ``index``, ``hash`` and ``recheck``.
        n, of_shards: what they will be in the end; 0 in ``index``, which finds it out.
        failed: shards given up.
        seconds: since the start of this run.
        rate: samples per second in this run; 0 before its first shard.
        eta: seconds that are left at this rate, in ``index``, ``hash`` and ``recheck`` at that of bytes; None without
            one.
        message: what happened, where there is something to say.
        workers: what each of them is at; none at the start and at the end.
        hashed, to_hash: in ``index``, ``hash`` and ``recheck``, bytes of these files by now, and all of them; in
            ``index`` of a folder of images or Zarr all of them are not known, and 0.
    """

    event: Event
    samples: int
    n: int
    shards: int
    of_shards: int
    failed: int
    seconds: float
    rate: float
    eta: float | None
    message: str = ""
    workers: tuple[WorkerState, ...] = ()
    hashed: int = 0
    to_hash: int = 0

    @staticmethod
    def at(
        event: Event,
        job: Job,
        samples: int,
        shards: int,
        failed: int,
        seconds: float,
        *,
        earlier: int = 0,
        message: str = "",
        workers: tuple[WorkerState, ...] = (),
    ) -> Progress:
        """A job of which so many samples are done after ``seconds``, those not counted that were there ``earlier``."""
        rate = (samples - earlier) / seconds if seconds > 0 else 0.0
        eta = (job.n - samples) / rate if rate else None
        counts = (samples, job.n, shards, job.shards, failed)
        return Progress(event, *counts, seconds, rate, eta, message, workers)


Watch: TypeAlias = Callable[[Progress], None]


def unwatched(progress: Progress) -> None:
    """Nobody looks."""


def now_and_then(watch: Told) -> Told:
    """What may be called at any rate with bytes that are done and all, 0 if unknown, and calls ``watch`` every second.

    If it has called it at all it does so with the last byte, too.
    """
    then, begun = time.monotonic() + EVERY, False

    def tell(done: int, total: int) -> None:
        nonlocal then, begun
        now = time.monotonic()
        if now >= then or (begun and done == total):
            then, begun = now + EVERY, True
            watch(done, total)

    return tell


def before_job(watch: Watch, event: Event, n: int = 0, shards: int = 0) -> Told:
    """What tells ``watch`` of bytes that are done, and of all bytes, before a job of so many rows and shards."""
    begun = time.monotonic()

    def tell(done: int, total: int) -> None:
        seconds = time.monotonic() - begun
        eta = seconds * (total - done) / done if done and total else None
        watch(Progress(event, 0, n, 0, shards, 0, seconds, 0.0, eta, hashed=done, to_hash=total))

    return tell
