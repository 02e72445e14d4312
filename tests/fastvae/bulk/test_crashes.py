"""Whatever is killed or fails, at any point: what is there is whole, and a resumed job ends as an undisturbed one."""

import errno
import json
import os
import resource
import threading
from functools import partial
from pathlib import Path

import pytest

from fastvae.bulk import folder as folder_module
from fastvae.bulk.disk import FORGET_EVERY, Disk, NewFile
from fastvae.bulk.folder import Folder
from fastvae.bulk.job import Job
from fastvae.bulk.progress import Progress
from fastvae.errors import JobError, OutputError
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
    undisturbed,
)


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
