"""The driver of a job: gives shards to workers, replaces workers that die, and alone writes the manifest."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from typing import Final

from fastvae.bulk.hashing import Count, in_threads
from fastvae.bulk.job import Job
from fastvae.bulk.place import JobFolder, Record, Success, altered
from fastvae.bulk.pool import Crew, Hand
from fastvae.bulk.progress import At, Event, Progress, Watch, WorkerState, before_job
from fastvae.bulk.work import Failed, Message, Ready, Unfit
from fastvae.errors import IncompleteJobError, JobError, OutputError
from fastvae.files.ahead import default_threads

# How often a shard is tried, and how often in a row a worker may die before it has its model.
ATTEMPTS: Final = 3
# Shards a worker has at once: one being written, one being computed.
HELD: Final = 2


@dataclass
class Slot:
    """A place for a worker: whether it has its model, the shards it holds, how many were done, how many died here."""

    hand: Hand
    ready: bool
    held: deque[int] = field(default_factory=deque)
    done: int = 0
    replaced: int = 0

    def state(self, number: int) -> WorkerState:
        """What is told of it."""
        at: At = "loading" if not self.ready else "working" if self.held else "idle"
        return WorkerState(number, at, tuple(self.held), self.done, self.replaced)


class Driver:
    """Runs what is missing of a job; the ``crew`` is asked for nothing if nothing is missing."""

    def __init__(self, job: Job, folder: JobFolder, crew: Crew, watch: Watch, *, recheck: bool = False) -> None:
        self._job, self._folder, self._crew, self._watch, self._recheck = job, folder, crew, watch, recheck
        self._attempts: Counter[int] = Counter()
        self._failed: dict[int, str] = {}
        self._deaths = 0
        self._slots: list[Slot] = []
        self._records: dict[int, Record] = {}
        self._todo: deque[int] = deque()
        self._begun = 0.0
        self._samples = self._earlier = 0

    def run(self) -> Success:
        """Make all shards that are not there yet, and write ``_SUCCESS``. Only while the folder is locked.

        Raises:
            IncompleteJobError: some kept failing; the others are done.
            JobError: workers cannot be started, or one of them would make other rows.
            OSError: the disk is full or cannot be written.
        """
        job, folder = self._job, self._folder
        folder.repair_manifest()
        found = folder.records(job)
        whole = {shard: record for shard, record in found.items() if not folder.present(record)}
        self._records = unaltered(job, folder, whole, self._watch) if self._recheck else whole
        self._todo = deque(shard for shard in range(job.shards) if shard not in self._records)
        self._samples = self._earlier = sum(record.rows for record in self._records.values())
        self._begun = time.monotonic()
        success = folder.success()
        if success is not None and (self._todo or success.job != job.id):
            folder.begin_again()
            success = None
        others = f", {lost:,} more have changed" if (lost := len(whole) - len(self._records)) else ""
        self._tell("start", f"{len(self._records):,} of {job.shards:,} shards are there{others}" if whole else "")
        if self._todo:
            try:
                self._work()
            except (KeyboardInterrupt, SystemExit):
                with contextlib.suppress(OSError):  # whoever watched has gone as well
                    self._tell("stop")
                raise
            finally:
                self._stop()
        if self._failed:
            raise IncompleteJobError(self._summary())
        success = success or folder.finish(job, self._records)
        self._tell("done")
        return success

    def _work(self) -> None:
        for index in range(min(self._crew.size(), len(self._todo))):
            hand = self._crew.start(index)
            self._slots.append(Slot(hand, hand.loaded))
        while self._todo or any(slot.held for slot in self._slots):
            self._feed_all()
            wait([waitable for slot in self._slots for waitable in slot.hand.waitable])
            for index, slot in enumerate(self._slots):
                self._listen(slot)
                if not slot.hand.alive:
                    self._replace(index, slot)

    def _feed_all(self) -> None:
        """Give every worker a first shard, and then a second, but none that one still loading could begin with."""
        loading = sum(not slot.ready for slot in self._slots)
        for room in range(1, HELD + 1):
            kept = loading if room > 1 else 0
            for slot in self._slots:
                if len(self._todo) > kept:
                    self._feed(slot, room)

    def _feed(self, slot: Slot, room: int) -> None:
        """Give a worker a shard if it holds fewer than ``room``; one that failed before has a worker to itself."""
        if not slot.ready or len(slot.held) >= room:
            return
        shard = self._todo[0]
        if slot.held and (self._attempts[shard] or self._attempts[slot.held[0]]):
            return
        try:
            slot.hand.send(shard)
        except OSError:  # it died; its waitables say so as well
            return
        self._todo.popleft()
        slot.held.append(shard)

    def _listen(self, slot: Slot) -> None:
        """Handle a worker's messages."""
        while True:
            try:
                if not slot.hand.connection.poll():
                    return
                message = slot.hand.connection.recv()
            except (EOFError, OSError):  # it died, perhaps in the midst of a message
                return
            self._handle(slot, message)

    def _handle(self, slot: Slot, message: Message) -> None:
        match message:
            case Ready():
                self._deaths = 0
                if not slot.ready:
                    slot.ready = True
                    self._tell("ready")
            case Unfit():
                raise JobError(f"a worker does not fit the job: {message.error}")
            case Failed():
                slot.held.remove(message.shard)
                if message.disk:
                    raise OutputError(message.error)
                self._again(message.shard, message.error)
            case Record():
                slot.held.remove(message.shard)
                slot.done += 1
                self._keep(message)

    def _keep(self, record: Record) -> None:
        self._folder.append(record)
        self._records[record.shard] = record
        self._samples += record.rows
        self._tell("shard")

    def _again(self, shard: int, error: str) -> None:
        """Try a shard once more, after all others, or give it up."""
        self._attempts[shard] += 1
        if self._attempts[shard] < ATTEMPTS:
            self._todo.append(shard)
            self._tell("retry", f"shard {shard}: {error}")
        else:
            self._failed[shard] = error
            self._tell("failed", f"shard {shard} failed {ATTEMPTS} times: {error}")

    def _replace(self, index: int, slot: Slot) -> None:
        """Put a new worker where one died; what it held is tried again."""
        self._listen(slot)
        self._deaths += not slot.ready
        slot.hand.stop()
        slot.hand.join()
        if self._deaths == ATTEMPTS:
            raise JobError(f"workers: their processes die before they have loaded the model; {slot.hand.hint}")
        lost = list(slot.held)
        slot.held.clear()
        slot.hand = self._crew.start(index)
        slot.ready = slot.hand.loaded
        slot.replaced += 1
        for shard in lost:
            self._again(shard, "its worker died")
        self._tell("worker", f"worker {index} died and is replaced")

    def _stop(self) -> None:
        for slot in self._slots:
            slot.hand.stop()
        for slot in self._slots:
            slot.hand.join()
        self._slots.clear()
        self._folder.sweep()

    def _tell(self, event: Event, message: str = "") -> None:
        seconds = time.monotonic() - self._begun
        counts = (self._samples, len(self._records), len(self._failed))
        workers = tuple(slot.state(number) for number, slot in enumerate(self._slots))
        state = Progress.at(event, self._job, *counts, seconds, earlier=self._earlier, message=message, workers=workers)
        self._watch(state)

    def _summary(self) -> str:
        shard, error = next(iter(self._failed.items()))
        return (
            f"{self._folder.path}: {len(self._failed):,} of {self._job.shards:,} shards failed {ATTEMPTS} times "
            f"(shard {shard}: {error}); the others are done, and the same call tries these again"
        )


def unaltered(job: Job, folder: JobFolder, records: dict[int, Record], watch: Watch) -> dict[int, Record]:
    """Those ``records`` whose files have the bytes that were written: all of them are read, from a store downloaded."""

    def same(record: Record, count: Count) -> bool:
        try:
            with folder.local(job, record) as place:
                return not altered(record, place, count.add)
        except (OSError, ValueError):
            return False

    works = [partial(same, record) for record in records.values()]
    total = sum(written.bytes for record in records.values() for written in record.files)
    found = in_threads(works, default_threads(), total, before_job(watch, "recheck", job.n, job.shards))
    return {shard: record for (shard, record), good in zip(records.items(), found, strict=True) if good}
