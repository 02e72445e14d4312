"""Workers that are killed, fail, stop or never start: the others do their shards, or it is said why not."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastvae.bulk.folder import Folder
from fastvae.bulk.job import Job
from fastvae.bulk.pool import ThreadHand
from fastvae.bulk.progress import Progress
from fastvae.bulk.table import Block
from fastvae.errors import IncompleteJobError, JobError
from tests.fastvae.bulk.fakes import (
    FaultyDisk,
    MadeRows,
    QuickDisk,
    assert_whole,
    contents,
    die,
    drive,
    made_job,
    undisturbed,
)


def test_any_number_of_workers_and_size_of_shards_make_the_same_rows(tmp_path: Path) -> None:
    reports = [
        drive(made_job(n=800, shard_size=size), tmp_path / f"{workers}-{size}", workers=workers)
        for workers in (0, 1, 2, 4)
        for size in (100, 77)
    ]
    assert len({report.content for report in reports}) == 1
    assert {report.shards for report in reports} == {8, 11}


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_that_are_killed_are_replaced(tmp_path: Path, workers: int) -> None:
    job = made_job(n=200, shard_size=10)
    for index in (0, 50, 120, 190):
        (tmp_path / str(index)).touch()

    def before(index: int) -> None:  # dies at each of these once
        mark = tmp_path / str(index)
        if mark.exists():
            mark.unlink()
            die()

    events: list[Progress] = []
    path = tmp_path / "job"
    drive(job, path, source=MadeRows(before), workers=workers, watch=events.append)
    assert_whole(job, path)
    names = [event.event for event in events]
    assert names.count("worker") == 4
    assert 1 <= names.count("ready") <= workers + 4
    last = [event.workers for event in events if event.workers][-1]
    assert [worker.number for worker in last] == list(range(workers))
    assert (sum(worker.replaced for worker in last), sum(worker.done for worker in last)) == (4, 20)
    assert len((path / "manifest.jsonl").read_text().splitlines()) == job.shards


def test_a_worker_killed_at_every_system_call_of_a_shard(tmp_path: Path) -> None:
    job = made_job(n=12)
    expected, _ = undisturbed(job, tmp_path / "undisturbed")

    driver, mark = os.getpid(), tmp_path / "mark"

    def fail() -> None:
        if os.getpid() != driver and mark.exists():
            mark.unlink()
            die()

    for at in range(7):
        path = tmp_path / str(at)
        path.mkdir()
        Folder(path).prepare(job)
        mark.touch()
        drive(job, path, disk=FaultyDisk(at, fail), workers=1)
        assert not mark.exists()
        assert contents(path) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_keeps_failing_is_reported_and_the_rest_is_done(tmp_path: Path, workers: int) -> None:
    job = made_job(n=100, shard_size=10)

    def before(index: int) -> None:
        if index == 39:
            raise ValueError("thirty-nine")
        if index == 70 and workers:
            die()

    events: list[Progress] = []
    failing = 2 if workers else 1
    with pytest.raises(IncompleteJobError, match=rf"{failing} of 10 shards failed 3 times \(shard"):
        drive(job, tmp_path, source=MadeRows(before), workers=workers, watch=events.append)
    messages = [event.message for event in events if event.event == "failed"]
    assert "shard 3 failed 3 times: ValueError: thirty-nine" in messages
    assert ("shard 7 failed 3 times: its worker died" in messages) == bool(workers)
    assert len(Folder(tmp_path).records(job)) == 10 - failing
    assert not (tmp_path / "_SUCCESS").exists()
    drive(job, tmp_path)
    assert_whole(job, tmp_path)


def test_the_neighbour_of_a_deadly_shard_is_not_blamed(tmp_path: Path) -> None:
    """A worker computes shard 1, which kills it, while it still writes shard 0: only together do they fail."""

    class Slow(QuickDisk):
        def sync(self, descriptor: int) -> None:
            time.sleep(0.05)

    def before(index: int) -> None:
        if index == 4:
            die()

    job = made_job(n=8)
    with pytest.raises(IncompleteJobError, match=r"1 of 2 shards failed 3 times \(shard 1: its worker died\)"):
        drive(job, tmp_path, disk=Slow(), source=MadeRows(before), workers=1)
    assert list(Folder(tmp_path).records(job)) == [0]


def test_a_worker_on_threads_stops_in_the_midst_of_a_shard(tmp_path: Path) -> None:
    job = made_job(n=30_000, shard_size=30_000)
    begun, blocks = threading.Event(), []

    def before(index: int) -> None:
        blocks.append(index)
        begun.set()
        time.sleep(0.001)

    hand = ThreadHand(job, Folder(tmp_path, QuickDisk()), MadeRows(before))
    hand.connection.send(0)
    assert begun.wait(60)
    hand.stop()
    hand.join()
    assert len(blocks) < 9000
    assert not list(tmp_path.iterdir())


def test_a_shard_without_all_its_rows_is_never_published(tmp_path: Path) -> None:
    class Gaps(MadeRows):
        def blocks(self, job: Job, low: int, high: int) -> Iterator[Block]:
            found = list(super().blocks(job, low, high))
            return iter(found[:-1] if low == 0 else found[1:])

    job = made_job(n=14, shard_size=7)
    events: list[Progress] = []
    with pytest.raises(IncompleteJobError):
        drive(job, tmp_path, source=Gaps(), watch=events.append)
    assert [event.message.partition("times: ")[2] for event in events if event.event == "failed"] == [
        "AssertionError: shard 0: rows 6 to 7 are missing",
        "AssertionError: shard 1: rows 7 to 10 are missing",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "job.json"]


def test_workers_that_never_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fastvae.bulk.fakes.Worker", None)
    with pytest.raises(JobError, match="die before they have loaded the model"):
        drive(made_job(), tmp_path, workers=1)
