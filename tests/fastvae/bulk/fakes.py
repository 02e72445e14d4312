"""Jobs without a model: rows that follow from their indices, disks that fail, and workers that are cheap to kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from fastvae.bulk.disk import Disk
from fastvae.bulk.driver import Driver
from fastvae.bulk.folder import TEMPORARY, Folder, Success
from fastvae.bulk.job import Job
from fastvae.bulk.pool import Hand, ThreadHand
from fastvae.bulk.progress import Progress
from fastvae.bulk.shards import FORMATS
from fastvae.bulk.table import Block, Column, Rejected, Rows
from fastvae.bulk.work import Worker

WIDTH = 3


def made_job(n: int = 10, shard_size: int = 4, block_rows: int = 3, **changed: Any) -> Job:
    """A job of ``n`` rows of three numbers; ``changed`` are other fields of it."""
    text = dict.fromkeys(("weights", "spec", "condition", "device", "libraries"), "")
    fields: dict[str, Any] = {
        "verb": "generate",
        "seed": 0,
        "output": "mean",
        "format": "npy",
        "columns": (Column("sample", "float32", (WIDTH,)),),
        "precision": "ieee",
        "numerics": "batch-invariant",
        "implementation": "none",
        "threads": "1",
        "engine": "0",
    }
    return Job(**{**text, **fields, **changed}, n=n, shard_size=shard_size, block_rows=block_rows)


def rows_of(job: Job, low: int, high: int) -> Rows:
    """Rows low to high of a made job."""
    indices = np.arange(low, high)[:, None] + np.arange(WIDTH) / 8
    return indices.astype(job.columns[0].dtype)


class MadeRows:
    """A source of these rows; ``before`` is called with the index of every block."""

    def __init__(self, before: Callable[[int], None] = lambda index: None) -> None:
        self._before = before

    def blocks(self, job: Job, low: int, high: int) -> Iterator[Block]:
        for start in range(low, high, job.block_rows):
            self._before(start)
            yield self.block(job, start, min(start + job.block_rows, high))

    def block(self, job: Job, low: int, high: int) -> Block:
        rejected = [Rejected(index, {"id": "é"}, "odd") for index in range(low, high) if index % 3 == 1]
        return Block(low, {"sample": rows_of(job, low, high)}, rejected)


class QuickDisk(Disk):
    """A disk that does not wait: what a killed process has written stays with the system."""

    def sync(self, descriptor: int) -> None:
        os.fstat(descriptor)

    def sync_folder(self, folder: Path) -> None:
        folder.stat()


class FaultyDisk(QuickDisk):
    """A disk that calls ``fail`` before its call number ``at``.

    With ``torn`` a write comes half through first.
    """

    def __init__(self, at: int, fail: Callable[[], None], *, torn: bool = False) -> None:
        self.calls, self._at, self._fail, self._torn = 0, at, fail, torn
        self._lock = threading.Lock()

    def _around(self, call: Callable[..., Any], *arguments: Any) -> Any:
        with self._lock:
            chosen = self.calls == self._at
            self.calls += 1
            if chosen and self._torn and call.__name__ == "write":
                descriptor, data = arguments
                super().write(descriptor, data[: len(data) // 2])
            if chosen:
                self._fail()
            return call(*arguments)

    def create(self, path: Path) -> int:
        return int(self._around(super().create, path))

    def open_append(self, path: Path) -> int:
        return int(self._around(super().open_append, path))

    def write(self, descriptor: int, data: memoryview) -> int:
        return int(self._around(super().write, descriptor, data))

    def truncate(self, descriptor: int, size: int) -> None:
        self._around(super().truncate, descriptor, size)

    def sync(self, descriptor: int) -> None:
        self._around(super().sync, descriptor)

    def replace(self, source: Path, target: Path) -> None:
        self._around(super().replace, source, target)

    def sync_folder(self, folder: Path) -> None:
        self._around(super().sync_folder, folder)


class ForkedHand:
    """A worker in a process that is forked, so that any source will do and it starts at once."""

    def __init__(self, job: Job, folder: Folder, source: MadeRows) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()

        def work(ours: Connection) -> None:
            ours.close()
            Worker(theirs, job, folder, source).run(wait=False)
            os._exit(0)

        self.process = context.Process(target=work, args=(self.connection,), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def waitable(self) -> Sequence[Any]:
        return [self.connection, self.process.sentinel]

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def drive(
    job: Job,
    path: Path,
    *,
    disk: Disk | None = None,
    source: MadeRows | None = None,
    workers: int = 0,
    watch: Callable[[Progress], None] = lambda state: None,
) -> Success:
    """Run a made job on threads, or with forked ``workers``."""
    folder = Folder(path, disk or QuickDisk())

    def start(index: int) -> Hand:
        return (ForkedHand if workers else ThreadHand)(job, folder, source or MadeRows())

    with folder.locked():
        folder.prepare(job)
        return Driver(job, folder, start, max(workers, 1), watch).run()


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], Any]) -> int:
    """Do ``work`` in a forked process; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(path: Path) -> dict[str, bytes]:
    """The files of a folder, but the manifest's lines sorted and without the lock."""
    files = {file.name: file.read_bytes() for file in path.iterdir() if file.name != ".lock"}
    lines = [json.loads(line) for line in files.pop("manifest.jsonl", b"").splitlines()]
    files["manifest.jsonl"] = json.dumps(sorted(lines, key=lambda line: line["shard"])).encode()
    return files


def assert_whole(job: Job, path: Path) -> None:
    """Every row of a finished job is there once, at its place, and nothing else is."""
    for shard in range(job.shards):
        low, high = job.bounds(shard)
        assert FORMATS[job.format].count(job, shard, path) == high - low
        indices, columns = FORMATS[job.format].read(job, shard, path, range(high - low))
        np.testing.assert_array_equal(indices, np.arange(low, high))
        np.testing.assert_array_equal(columns["sample"], rows_of(job, low, high))
    assert not any(TEMPORARY.fullmatch(name.name) for name in path.iterdir())
