"""What a worker does: shards, one after the other, computed ahead while the last one is being written."""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from fastvae.bulk.content import added, content_of
from fastvae.bulk.disk import NewFile
from fastvae.bulk.job import Job
from fastvae.bulk.place import JobFolder, Record
from fastvae.bulk.rejects import MASK, files_of, lines_of
from fastvae.bulk.shards import FORMATS
from fastvae.bulk.source import RowSource
from fastvae.bulk.table import Block
from fastvae.runtime.side_by_side import work_in_company

# Errors of the disk that every other shard would meet too.
OF_THE_DISK = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOENT", "ENOTDIR", "EFBIG")
    if hasattr(errno, name)
}
# Blocks that are computed and not yet written.
AHEAD = 2


@dataclass(frozen=True)
class Failed:
    """A shard that could not be made; ``disk`` if no other could be written either."""

    shard: int
    error: str
    disk: bool


@dataclass(frozen=True)
class Ready:
    """A worker has its model."""


@dataclass(frozen=True)
class Unfit:
    """A worker would not make the job's rows, and why; neither would another in its place."""

    error: str


Message: TypeAlias = Record | Failed | Ready | Unfit


class Stopped(Exception):  # noqa: N818 - no error
    """Nobody waits for the shard any more."""


def run_shard(job: Job, shard: int, blocks: Iterator[Block], folder: JobFolder) -> Record:
    """Write the ``blocks`` of a shard under its final names; its line for the manifest.

    Raises:
        OSError: a file cannot be written. Nothing temporary is left, whatever is raised.
    """
    low, high = job.bounds(shard)
    content, done = 0, low
    format = FORMATS[job.format]
    with folder.new_files(files_of(job, shard)) as files:
        rejects = files[-1] if job.invalid == MASK else None
        assert rejects is None or isinstance(rejects, NewFile)
        with format.writer(job, shard, files[: len(format.names(job, shard))]) as writer:
            for block in blocks:
                if block.start != done:
                    raise AssertionError(f"shard {shard}: rows {done} to {block.start} are missing")
                writer.write(block)
                if rejects is not None:
                    rejects.write(lines_of(block))
                content = added(content, content_of(block))
                done += len(block)
            if done != high:
                raise AssertionError(f"shard {shard}: rows {done} to {high} are missing")
            writer.finish()
        written = tuple(file.publish() for file in files)
    return Record(shard, low, high - low, written, f"{content:016x}")


class Line(Protocol):
    """A worker's end of the line to its driver."""

    def recv(self) -> int:
        """The next shard; EOFError or OSError once the other end has closed."""

    def send(self, message: Any) -> None:
        """Answer; OSError if nobody listens."""


class Worker:
    """Makes the shards whose numbers come in through a line, and answers with messages, in order.

    One thread computes, one writes, and the one that called :meth:`run` waits for numbers. The other end's closing
    stops all: whatever is unfinished leaves nothing.
    """

    def __init__(self, line: Line, job: Job, folder: JobFolder, source: RowSource) -> None:
        self._line, self._job, self._folder, self._source = line, job, folder, source
        self._shards: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._blocks: queue.Queue[Any] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        self._abandoned = -1

    def run(self, *, wait: bool = True) -> None:
        """Work until the other end closes; then ``wait`` for the threads."""
        threads = [threading.Thread(target=target, daemon=True) for target in (self._compute, self._write)]
        for thread in threads:
            thread.start()
        self._send(Ready())
        try:
            while True:
                self._shards.put(self._line.recv())
        except (EOFError, OSError):
            self._stopped.set()
            self._shards.put(None)
        for thread in threads if wait else ():
            thread.join()

    def _send(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # nobody listens: the reading thread finds out
            self._line.send(message)

    def _compute(self) -> None:
        """Queue the blocks of every shard, each between its number and None; or what went wrong before None."""
        work_in_company()
        try:
            while (shard := self._shards.get()) is not None:
                self._abandoned = -1
                self._put(shard)
                try:
                    for block in self._source.blocks(self._job, *self._job.bounds(shard)):
                        self._put(block)
                        if self._abandoned == shard:
                            break
                except Stopped:
                    raise
                except Exception as error:
                    self._put(error)
                self._put(None)
        except Stopped:
            pass

    def _put(self, item: Any) -> None:
        """Queue an item as soon as there is room."""
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._blocks.put(item, timeout=0.1)
                return
        raise Stopped

    def _take(self) -> Any:
        """The next item of the queue."""
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Empty):
                return self._blocks.get(timeout=0.1)
        raise Stopped

    def _write(self) -> None:
        """Make a file of every shard in the queue."""
        try:
            while True:
                shard = self._take()
                blocks = self._queued()
                try:
                    self._send(run_shard(self._job, shard, blocks, self._folder))
                except Stopped:
                    raise
                except Exception as error:
                    self._abandoned = shard
                    for _ in blocks:
                        pass
                    text = f"{type(error).__name__}: {error}"
                    self._send(Failed(shard, text, isinstance(error, OSError) and error.errno in OF_THE_DISK))
        except Stopped:
            pass

    def _queued(self) -> Iterator[Block]:
        """The blocks of a shard from the queue, up to its end."""
        while (item := self._take()) is not None:
            if isinstance(item, Exception):
                self._take()
                raise item
            yield item
