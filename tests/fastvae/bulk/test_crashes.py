"""Whatever is killed or fails, at any point: what is there is whole, and a resumed job ends as an undisturbed one."""

import errno
import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fastvae.bulk import folder as folder_module
from fastvae.bulk.disk import FORGET_EVERY, Disk, NewFile
from fastvae.bulk.folder import Folder
from fastvae.bulk.job import Job
from fastvae.bulk.pool import ThreadHand
from fastvae.bulk.progress import Progress
from fastvae.bulk.table import Block
from fastvae.errors import IncompleteJobError, JobError, OutputError
from tests.fastvae.bulk.fakes import (
    FaultyDisk,
    MadeRows,
    QuickDisk,
    assert_whole,
    contents,
    die,
    drive,
    files_in,
    in_child,
    made_job,
)


def undisturbed(job: Job, path: Path) -> tuple[dict[str, bytes], int]:
    """The files of a job in which nothing went wrong, and the system calls it took."""
    disk = FaultyDisk(-1, die)
    drive(job, path, disk=disk)
    assert_whole(job, path)
    return contents(path), disk.calls


def assert_nothing_partial(job: Job, path: Path, expected: dict[str, bytes]) -> None:
    """Every file under a final name is as it will be in the end, and the manifest names only such files."""
    found = files_in(path)
    for name, data in found.items():
        if name in expected and name != "manifest.jsonl":
            assert data == expected[name], name
    for record in Folder(path).records(job).values():
        assert all((path / file.name).exists() for file in record.files)


@pytest.mark.parametrize(
    ("format", "n", "torn", "invalid"),
    [("npy", 7, False, "mask"), ("parquet", 7, True, ""), ("zarr", 3, False, ""), ("png", 2, True, "")],
)
def test_killed_at_every_system_call(tmp_path: Path, format: str, n: int, torn: bool, invalid: str) -> None:
    job = made_job(n=n, format=format, invalid=invalid)
    expected, calls = undisturbed(job, tmp_path / "undisturbed")
    lists = b"".join(expected[name] for name in sorted(expected) if name.startswith("rejected-"))
    assert [json.loads(line)["index"] for line in lists.splitlines()] == ([1, 4] if invalid else [])
    for at in range(calls):
        path = tmp_path / str(at)
        disk = FaultyDisk(at, die, torn=torn)
        assert in_child(partial(drive, job, path, disk=disk)) == -9
        assert_nothing_partial(job, path, expected)
        drive(job, path)
        assert contents(path) == expected, at
    assert calls > 20


def test_a_disk_that_is_full_at_every_system_call(tmp_path: Path) -> None:
    job = made_job(n=7)
    expected, calls = undisturbed(job, tmp_path / "undisturbed")

    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for at in range(calls):
        path = tmp_path / str(at)
        with pytest.raises(OSError, match="No space left on device"):
            drive(job, path, disk=FaultyDisk(at, fail, torn=True))
        assert not list(path.glob(".*.tmp"))
        assert_nothing_partial(job, path, expected)
        drive(job, path)
        assert contents(path) == expected, at


def test_a_read_only_disk_ends_the_job_at_once(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    events: list[Progress] = []
    with pytest.raises(OutputError, match="Read-only file system"):
        drive(made_job(n=100), tmp_path, disk=FaultyDisk(6, fail), watch=events.append)
    assert [event.event for event in events] == ["start"]


def test_a_passing_error_of_the_disk_is_tried_again(tmp_path: Path) -> None:
    job = made_job()
    expected, _ = undisturbed(job, tmp_path / "undisturbed")
    shard_calls = 6, 9, 11  # creating, writing and renaming shards, after the job's own file
    for at in shard_calls:
        events: list[Progress] = []

        def fail() -> None:
            raise OSError(errno.EIO, "Input/output error")

        disk = FaultyDisk(at, fail)
        drive(job, tmp_path / str(at), disk=disk, watch=events.append)
        assert [event.message for event in events if event.event == "retry"] == [
            "shard 0: OSError: [Errno 5] Input/output error"
        ]
        assert contents(tmp_path / str(at)) == expected


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    job = made_job(n=10_000, shard_size=4000)
    path = tmp_path / "job"

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            drive(job, path)
        except OutputError as error:
            os._exit(0 if "File too large" in str(error) else 2)

    assert in_child(work) == 0
    assert sorted(file.name for file in path.iterdir()) == [".lock", "job.json"]
    drive(job, path)
    assert_whole(job, path)


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_a_torn_manifest(tmp_path: Path, cut: int) -> None:
    job = made_job()
    expected, _ = undisturbed(job, tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-cut])
    assert len(Folder(tmp_path).records(job)) == job.shards - 1
    events: list[Progress] = []
    drive(job, tmp_path, watch=events.append)
    assert contents(tmp_path) == expected
    assert [event.event for event in events] == ["start", "shard", "done"]


def record(**changed: object) -> bytes:
    """A line that is not quite that of shard 0."""
    line = {"shard": 0, "start": 0, "rows": 4, "file": "", "bytes": 1, "sha256": "", "content": "0"}
    return json.dumps(line | {"file": "shard-000000000.npy"} | changed).encode()


@pytest.mark.parametrize(
    "line",
    [
        b"\0" * 50,
        b"[]",
        b"{}",
        b'"shard"',
        record(start=1),
        record(shard=9, start=36),
        record(shard="0"),
        record(file="/"),
        record(content="x"),
        record(more=1),
    ],
)
def test_lines_of_a_manifest_that_are_no_records_do_not_count(tmp_path: Path, line: bytes) -> None:
    job = made_job()
    drive(job, tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(line + b"\n" + b"".join(manifest.read_bytes().splitlines(keepends=True)[1:]))
    assert len(Folder(tmp_path).records(job)) == job.shards - 1
    drive(job, tmp_path)
    assert_whole(job, tmp_path)
    assert len(Folder(tmp_path).records(job)) == job.shards


@pytest.mark.parametrize("damage", ["truncated", "removed"])
def test_a_file_damaged_afterwards_is_made_again(tmp_path: Path, damage: str) -> None:
    job = made_job()
    drive(job, tmp_path)
    shard = tmp_path / f"{job.stem(1)}.npy"
    data = shard.read_bytes()
    shard.unlink()
    if damage == "truncated":
        shard.write_bytes(data[:-5])
    seen = []

    def watch(state: Progress) -> None:
        seen.append(((tmp_path / "_SUCCESS").exists(), state.shards))

    drive(job, tmp_path, watch=watch)
    assert seen == [(False, 2), (False, 3), (True, 3)]
    assert shard.read_bytes() == data
    assert_whole(job, tmp_path)


def test_killed_at_every_system_call_that_replaces_a_folder_of_images(tmp_path: Path) -> None:
    job = made_job(n=2, format="png")
    expected, _ = undisturbed(job, tmp_path / "undisturbed")
    for at in range(20):
        path = tmp_path / str(at)
        drive(job, path)
        (path / job.stem(0) / "000000001.png").unlink()
        code = in_child(partial(drive, job, path, disk=FaultyDisk(at, die)))
        assert all(expected[f"{job.stem(0)}/{image.name}"] == image.read_bytes() for image in path.glob("shard-*/*"))
        drive(job, path)
        assert contents(path) == expected, at
        if code != -9:
            break
    assert at > 10


def test_two_drivers_at_once(tmp_path: Path) -> None:
    job = made_job()
    begun, go_on = threading.Event(), threading.Event()

    def before(index: int) -> None:
        begun.set()
        assert go_on.wait(60)

    first = threading.Thread(target=drive, args=(job, tmp_path), kwargs={"source": MadeRows(before)})
    first.start()
    try:
        assert begun.wait(60)
        with pytest.raises(JobError, match="another process is working on this job"):
            drive(job, tmp_path)
        assert in_child(lambda: drive(job, tmp_path)) == 1
    finally:
        go_on.set()
        first.join()
    assert_whole(job, tmp_path)


def test_the_lock_goes_with_its_holder(tmp_path: Path) -> None:
    job = made_job()
    assert in_child(lambda: drive(job, tmp_path, source=MadeRows(lambda index: die()))) == -9
    drive(job, tmp_path)
    assert_whole(job, tmp_path)


def test_an_interrupted_driver_stops_its_workers_and_sweeps(tmp_path: Path) -> None:
    job = made_job(n=1000, shard_size=10)

    def watch(state: Progress) -> None:
        if state.shards == 3:
            raise KeyboardInterrupt

    for workers in (0, 2):
        path = tmp_path / str(workers)
        with pytest.raises(KeyboardInterrupt):
            drive(job, path, workers=workers, watch=watch)
        assert len(Folder(path).records(job)) == 3
        assert not list(path.glob(".*.tmp"))
        events: list[Progress] = []
        drive(job, path, workers=workers, watch=events.append)
        assert (events[0].event, events[0].shards, events[0].samples) == ("start", 3, 30)
        assert events[-1].samples == 1000
        assert_whole(job, path)


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


def test_no_call_is_left_out_of_the_protocol(tmp_path: Path) -> None:
    """The order that makes it safe: bytes, then their name, then the folder, and only then the manifest."""
    log: list[str] = []

    class Logged(Disk):
        def __getattribute__(self, name: str) -> object:
            log.append(name)
            return super().__getattribute__(name)

    def logged(job: Job, path: Path) -> list[str]:
        log.clear()
        drive(job, path, disk=Logged())
        return [name for name in log if not name.startswith("_")]

    file = ["create", "write", "sync", "forget", "replace", "sync_folder"]
    shard = ["create", "write", "write", "sync", "forget", "replace", "sync_folder"]  # header, rows
    line = ["open_append", "write", "sync", "sync_folder"]
    assert logged(made_job(n=2), tmp_path / "file") == ["sync_folder", *file, *shard, *line, *file]
    images = ["create_folder", *2 * ["create", "write"], *2 * ["sync", "forget"], "sync_folder", "replace"]
    images += ["sync_folder"]
    assert logged(made_job(n=2, format="png"), tmp_path / "images") == ["sync_folder", *file, *images, *line, *file]
    assert folder_module.TEMPORARY.fullmatch(".shard-000000000.npy.0123456789abcdef.tmp")


def test_a_long_file_is_forgotten_on_the_way(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Forgetful(QuickDisk):
        def forget(self, descriptor: int) -> None:
            sizes.append(os.fstat(descriptor).st_size)
            super().forget(descriptor)

    file = NewFile(Forgetful(), tmp_path / "temporary", tmp_path, "file")
    for _ in range(5):
        file.write(bytes(FORGET_EVERY // 2))
    file.publish()
    assert sizes == [FORGET_EVERY, 2 * FORGET_EVERY, 5 * FORGET_EVERY // 2]
