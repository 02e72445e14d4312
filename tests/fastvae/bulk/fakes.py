"""Jobs without a model: rows that follow from their indices, disks that fail, and workers that are cheap to kill."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from fastvae.bulk.disk import Disk
from fastvae.bulk.driver import Driver
from fastvae.bulk.folder import TEMPORARY, Folder
from fastvae.bulk.job import Job
from fastvae.bulk.place import JobFolder, Success
from fastvae.bulk.pool import Hand, Threads
from fastvae.bulk.progress import Progress
from fastvae.bulk.shards import FORMATS
from fastvae.bulk.store import Store
from fastvae.bulk.store_folder import StoreFolder
from fastvae.bulk.table import Block, Column, Rejected, Rows
from fastvae.bulk.work import Worker

WIDTH = 3


def made_job(n: int = 10, shard_size: int = 4, block_rows: int = 3, **changed: Any) -> Job:
    """A job of ``n`` rows of three numbers, or of small images for ``png``; ``changed`` are other fields of it."""
    if changed.get("format") == "png":
        changed.setdefault("columns", (Column("sample", "uint8", (1, 1, WIDTH)),))
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


def columns_of(job: Job, low: int, high: int) -> dict[str, Rows]:
    """Rows low to high of a made job."""
    found = {}
    for number, column in enumerate(job.columns):
        values = np.arange(low, high)[:, None] + np.arange(math.prod(column.shape)) / 8 + 9 * number
        found[column.name] = values.astype(column.dtype).reshape(-1, *column.shape)
    return found


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
        return Block(low, columns_of(job, low, high), rejected)


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

    def create_folder(self, path: Path) -> None:
        self._around(super().create_folder, path)

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


class FaultyStore(Store):
    """A store of a process that dies before, or right after, its call number ``at``: no call comes through any more.

    With ``passing`` it does not die, only that call fails.
    """

    def __init__(self, url: str, at: int = -1, *, after: bool = False, passing: bool = False) -> None:
        super().__init__(url)
        self.log: list[str] = []
        self._at, self._after, self._passing = at, after, passing
        self._dead = False
        self._calls = threading.Lock()

    def _around(self, call: Callable[..., Any], *arguments: Any) -> Any:
        with self._calls:
            if self._dead:
                raise OSError(errno.EROFS, "dead")
            chosen = len(self.log) == self._at
            self.log.append(" ".join([call.__name__, *arguments[:1]]))
            self._dead = chosen and not self._passing
            error = OSError(errno.EIO if self._passing else errno.EROFS, "the call that was chosen")
            if chosen and not self._after:
                raise error
            result = call(*arguments)
            if chosen:
                raise error
            return result

    def list(self) -> dict[str, int]:
        return dict(self._around(super().list))

    def get(self, name: str) -> bytes:
        return bytes(self._around(super().get, name))

    def download(self, name: str, target: Path) -> None:
        self._around(super().download, name, target)

    def create(self, name: str, source: Path) -> bool:
        return bool(self._around(super().create, name, source))

    def put(self, name: str, source: Path) -> None:
        self._around(super().put, name, source)

    def delete(self, name: str) -> None:
        self._around(super().delete, name)


class ForkedHand:
    """A worker in a process that is forked, so that any source will do and it starts at once."""

    loaded, hint = False, ""

    def __init__(self, job: Job, folder: JobFolder, source: MadeRows) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()

        def work(ours: Connection) -> None:
            ours.close()
            Worker(theirs, job, folder, source).run(wait=False)
            os._exit(0)

        self.process = context.Process(target=work, args=(self.connection,), daemon=True)
        self.process.start()
        theirs.close()

    def send(self, shard: int) -> None:
        self.connection.send(shard)

    @property
    def waitable(self) -> Sequence[Any]:
        return [self.connection, self.process.sentinel]

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def stop(self) -> None:
        self.process.kill()

    def join(self) -> None:
        self.process.join()
        self.connection.close()


@dataclass(frozen=True)
class Forks:
    """Forked workers."""

    job: Job
    folder: JobFolder
    source: MadeRows
    workers: int

    def size(self) -> int:
        return self.workers

    def start(self, index: int) -> Hand:
        return ForkedHand(self.job, self.folder, self.source)


def drive_with(crew: Any, job: Job, folder: JobFolder, watch: Callable[[Progress], None]) -> Success:
    """Run a made job with workers of a crew."""
    with folder.locked():
        folder.prepare(job)
        return Driver(job, folder, crew, watch).run()


def drive(
    job: Job,
    path: Path | str,
    *,
    store: Store | None = None,
    disk: Disk | None = None,
    source: MadeRows | None = None,
    workers: int = 0,
    watch: Callable[[Progress], None] = lambda state: None,
) -> Success:
    """Run a made job on threads, or with forked ``workers``; a path that is text is a URL."""
    folder = StoreFolder(path, store) if isinstance(path, str) else Folder(path, disk or QuickDisk())
    found = source or MadeRows()
    crew = Forks(job, folder, found, workers) if workers else Threads(job, folder, found)
    return drive_with(crew, job, folder, watch)


def die_once(folder: Path, step: str) -> None:
    """End this process if the file of the step is there, and remove the file first."""
    try:
        (folder / step).unlink()
    except FileNotFoundError:
        return
    die()


class DeadlyDisk(QuickDisk):
    """A disk whose process dies before a call for which there is a file in ``steps``, once."""

    def __init__(self, steps: Path) -> None:
        self._steps = steps

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name in vars(Disk):
            die_once(self._steps, name)
        return super().__getattribute__(name)


@dataclass(frozen=True)
class MadeRecipe:
    """Made rows, one of which fails, in a process that dies once at every file in ``steps``."""

    job: Job
    path: Path
    steps: Path

    def place(self) -> Folder:
        return Folder(self.path, DeadlyDisk(self.steps))

    def source(self) -> MadeRows:
        die_once(self.steps, "load")

        def before(index: int) -> None:
            die_once(self.steps, f"row {index}")
            if index == 39:
                raise ValueError("thirty-nine")

        return MadeRows(before)


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


def files_in(path: Path) -> dict[str, bytes]:
    """All files in a folder, and below it."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def contents(path: Path) -> dict[str, bytes]:
    """The files of a folder, but of the manifest the last line of every shard, sorted, and without the lock."""
    files = files_in(path)
    files.pop(".lock")
    lines = [json.loads(line) for line in files.pop("manifest.jsonl", b"").splitlines()]
    last = {line["shard"]: line for line in lines}
    files["manifest.jsonl"] = json.dumps([last[shard] for shard in sorted(last)]).encode()
    return files


def assert_whole(job: Job, path: Path) -> None:
    """Every row of a finished job is there once, at its place, and nothing else is."""
    for shard in range(job.shards):
        low, high = job.bounds(shard)
        assert FORMATS[job.format].count(job, shard, path) == high - low
        indices, columns = FORMATS[job.format].read(job, shard, path, range(high - low))
        np.testing.assert_array_equal(indices, np.arange(low, high))
        assert columns.keys() == {column.name for column in job.columns}
        for name, expected in columns_of(job, low, high).items():
            np.testing.assert_array_equal(columns[name], expected)
            assert columns[name].dtype == expected.dtype
    assert not any(TEMPORARY.fullmatch(name.name) for name in path.iterdir())


def undisturbed(job: Job, path: Path) -> tuple[dict[str, bytes], int]:
    """The files of a job in which nothing went wrong, and the system calls it took."""
    disk = FaultyDisk(-1, die)
    drive(job, path, disk=disk)
    assert_whole(job, path)
    return contents(path), disk.calls
