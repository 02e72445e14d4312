"""Jobs in a store of objects, here in memory: dead at whichever call, a resumed job ends as an undisturbed one."""

import errno
import importlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import fastvae
from fastvae import bulk
from fastvae.bulk.folder import Folder
from fastvae.bulk.opening import open_folder
from fastvae.bulk.progress import Progress
from fastvae.bulk.shards import FORMATS
from fastvae.bulk.store import Store
from fastvae.bulk.store_folder import StoreFolder
from fastvae.errors import InputError, JobError, OutputError, UnsupportedError
from tests.fastvae.bulk.fakes import FaultyStore, MadeRows, columns_of, contents, drive, made_job


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A prefix of its own."""
    yield f"memory:/{tmp_path}"
    files = fsspec.filesystem("memory")
    for path in [path for path in files.store if path.startswith(str(tmp_path))]:
        files.rm_file(path)


def objects(url: str) -> dict[str, bytes]:
    """All objects."""
    store = Store(url)
    return {name: store.get(name) for name in store.list()}


def but_manifest(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of a job that have the same names and bytes on a disk and in a store."""
    return {name: data for name, data in files.items() if not name.startswith("manifest")}


def put(url: str, name: str, data: bytes) -> None:
    fsspec.filesystem("memory").pipe_file(f"{url}/{name}", data)


def remove(url: str, name: str) -> None:
    fsspec.filesystem("memory").rm_file(f"{url}/{name}")


@pytest.mark.parametrize("format", FORMATS)
def test_an_undisturbed_job_has_the_files_of_a_local_one(url: str, tmp_path: Path, format: str) -> None:
    job = made_job(format=format)
    assert drive(job, url) == drive(job, tmp_path)
    assert but_manifest(objects(url)) == but_manifest(contents(tmp_path))
    records = StoreFolder(url).records(job)
    assert records == Folder(tmp_path).records(job)
    found = bulk.verify(url)
    assert (found.problems, found.shards) == ((), 3)
    with open_folder(url).local(job, records[2]) as folder:
        indices, columns = FORMATS[format].read(job, 2, folder, [1])
    np.testing.assert_array_equal(indices, [9])
    np.testing.assert_array_equal(columns["sample"], columns_of(job, 9, 10)["sample"])
    assert not folder.exists()


def test_the_order_that_makes_it_safe(url: str) -> None:
    store, again = FaultyStore(url), FaultyStore(url)
    job = made_job(n=3)
    shard = ["create shard-000000000.npy", "create manifest/000000000.json"]
    drive(job, url, store=store)
    assert store.log == ["list", "create job.json", "list", "get _SUCCESS", *shard, "create _SUCCESS"]
    drive(job, url, store=again)
    read = ["get job.json", "list", "get manifest/000000000.json", "get _SUCCESS"]
    assert again.log == ["list", "create job.json", *read]


@pytest.mark.parametrize(
    ("format", "n", "after", "passing"),
    [
        *(("npy", 6, after, passing) for after in (False, True) for passing in (False, True)),
        ("zarr", 3, False, False),
        ("png", 2, True, False),
        ("png", 2, False, True),
    ],
)
def test_dead_or_failing_at_every_call(
    url: str, tmp_path: Path, format: str, n: int, after: bool, passing: bool
) -> None:
    job = made_job(n=n, format=format)
    success = drive(job, tmp_path)
    undisturbed = FaultyStore(f"{url}/undisturbed")
    drive(job, f"{url}/undisturbed", store=undisturbed)
    expected = objects(f"{url}/undisturbed")
    ended = 0
    for at in range(len(undisturbed.log)):
        place = f"{url}/{at}"
        store = FaultyStore(place, at, after=after, passing=passing)
        try:
            drive(job, place, store=store)
            ended += 1
        except OSError:
            pass
        assert objects(place).items() <= expected.items()
        folder = StoreFolder(place)
        assert not any(folder.present(record) for record in folder.records(job).values())
        assert drive(job, place) == success, at
        assert objects(place) == expected, at
    assert bool(ended) == passing  # what passes is tried again, if it was an upload of a worker's
    assert len(undisturbed.log) > 6


def test_resuming_makes_only_what_is_missing(url: str) -> None:
    job = made_job(n=20)
    success = drive(job, url)
    expected = objects(url)
    remove(url, "shard-000000001.npy")
    put(url, "shard-000000002.npy", b"short")
    remove(url, "manifest/000000003.json")
    put(url, "manifest/000000004.json", b'{"shard": 4}')
    seen: list[tuple[str, int, bool]] = []

    def watch(state: Progress) -> None:
        seen.append((state.event, state.shards, "_SUCCESS" in objects(url)))

    assert drive(job, url, watch=watch) == success
    assert objects(url) == expected
    begun = [("start", 1, False), *(("shard", done, False) for done in (2, 3, 4, 5)), ("done", 5, True)]
    assert seen == begun


def test_a_shard_that_is_there_without_a_record_is_compared(url: str) -> None:
    job = made_job(n=8)
    drive(job, url)
    expected = objects(url)
    for name in ("manifest/000000000.json", "manifest/000000001.json", "_SUCCESS"):
        remove(url, name)
    put(url, "shard-000000001.npy", bytes(len(expected["shard-000000001.npy"])))
    store = FaultyStore(url)
    drive(job, url, store=store)
    assert objects(url) == expected
    assert [call for call in store.log if call.startswith("put")] == ["put shard-000000001.npy"]


def test_two_drivers_at_once_do_no_harm(url: str, tmp_path: Path) -> None:
    job = made_job(n=40)
    success, meeting = drive(job, tmp_path), threading.Barrier(2)
    found: list[Any] = []

    def before(index: int) -> None:
        if index < 20:
            meeting.wait(60)

    def run() -> None:
        found.append(drive(job, url, source=MadeRows(before)))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [success, success]
    assert but_manifest(objects(url)) == but_manifest(contents(tmp_path))
    assert StoreFolder(url).records(job) == Folder(tmp_path).records(job)


def test_another_job_and_other_objects(url: str) -> None:
    drive(made_job(), url)
    before = objects(url)
    with pytest.raises(JobError, match=r"memory:/.*: holds another job \(n 10, not 11\)"):
        drive(made_job(n=11), url)
    assert objects(url) == before
    put(url, "other/thesis.tex", b"")
    with pytest.raises(JobError, match=r"holds files but no job \('thesis.tex'\)"):
        drive(made_job(), f"{url}/other")
    put(url, "other/job.json", b"\xff")
    with pytest.raises(JobError, match="is not the folder of a job"):
        drive(made_job(), f"{url}/other")
    with pytest.raises(JobError, match=r"is not the folder of a job; it has no job.json that can be read \("):
        bulk.verify(f"{url}/nothing")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (partial(remove, name="shard-000000001/000000005.png"), "shard-000000001/ has [0-9,]+ bytes instead of"),
        (partial(put, name="shard-000000001/000000005.png", data=b""), "bytes instead of"),
        (partial(put, name="shard-000000001/000000009.txt", data=b""), "another SHA-256"),
        (partial(put, name="shard-000000001/x/y", data=b""), "cannot be read: .* is no file of a shard"),
        (partial(put, name="shard-000000001/..", data=b""), "cannot be read: .* is no file of a shard"),
        (partial(remove, name="manifest/000000001.json"), "is not in the manifest"),
    ],
)
def test_verify_names_what_is_wrong(url: str, damage: Callable[[str], None], message: str) -> None:
    drive(made_job(format="png"), url)
    damage(url)
    found = bulk.verify(url)
    assert found.shards == 2
    with pytest.raises(JobError, match=f"^shard 1: .*{message}"):
        raise JobError(found.problems[0])


def test_samples_of_a_model(url: str, tmp_path: Path, gaussian: fastvae.VAE) -> None:
    here = bulk.generate(gaussian, 100, f"{url}/", shard_size=30)
    there = bulk.generate(gaussian, 100, f"file://{tmp_path}/job", shard_size=30)
    assert (here.content, here.job, here.folder) == (there.content, there.job, url)
    assert there.folder == tmp_path / "job"
    assert (tmp_path / "job" / "manifest.jsonl").exists()
    found = bulk.verify(url, gaussian, rows=100)
    assert (found.problems, found.rows) == ((), 100)
    with pytest.raises(InputError, match="is in the memory of one process; use workers=1"):
        bulk.generate(gaussian, 100, f"{url}/two", workers=2)
    assert objects(f"{url}/two") == {}


def adlfs_like(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has another word for it."""
    whole = files.put_file

    def put_file(source: str, target: str, delimiter: str = "/", overwrite: bool = True, **options: Any) -> None:
        assert not options
        if not overwrite and files.exists(target):
            raise FileExistsError("File already exists!")
        whole(source, target)

    monkeypatch.setattr(files, "put_file", put_file)


def refusing(files: Any, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """One whose server answers a conditional put with an error."""
    whole = files.put_file

    def put_file(source: str, target: str, mode: str = "overwrite") -> None:
        if mode == "create" and (code == errno.ENOSYS or files.exists(target)):
            raise OSError(code, "no")
        whole(source, target)

    monkeypatch.setattr(files, "put_file", put_file)


@pytest.mark.parametrize(
    "change",
    [adlfs_like, partial(refusing, code=errno.ENOSYS), partial(refusing, code=errno.EINVAL)],
    ids=["overwrite=False", "not implemented", "condition failed"],
)
def test_conditional_puts_of_other_kinds(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[..., None]
) -> None:
    change(fsspec.filesystem("memory", use_listings_cache=False), monkeypatch)
    (tmp_path / "new").write_bytes(b"new")
    store = Store(url)
    assert store.create("a", tmp_path / "new")
    assert not store.create("a", tmp_path / "new")
    job = made_job()
    drive(job, f"{url}/job")
    remove(f"{url}/job", "manifest/000000001.json")
    drive(job, f"{url}/job")
    assert bulk.verify(f"{url}/job").ok
    with pytest.raises(JobError, match="holds another job"):
        drive(made_job(n=11), f"{url}/job")


def test_file_systems_that_show_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or that know no condition; both are refused before anything is written."""
    for url, kind in ((f"dir::memory://{tmp_path}", "DirFileSystem"), (f"simplecache::memory:/{tmp_path}/x", "Simple")):
        with pytest.raises(UnsupportedError, match=rf"{kind}.* cannot put a file whole.*mount it as a folder"):
            Store(url)

    class InSteps(fsspec.AbstractFileSystem):  # type: ignore[misc]
        protocol = "steps"

    fsspec.register_implementation("steps", InSteps)
    with pytest.raises(UnsupportedError, match="steps://bucket/x: InSteps cannot put a file whole"):
        open_folder("steps://bucket/x")


def test_a_manifest_that_cannot_be_read(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drive(made_job(), url)

    def find(path: str, detail: bool) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr(fsspec.filesystem("memory", use_listings_cache=False), "find", find)
    with pytest.raises(JobError, match="its manifest cannot be read: no answer"):
        bulk.verify(url)


def test_errors_of_the_libraries_behind_a_store_become_its_own(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCredentialsError(Exception):
        pass

    def find(path: str, detail: bool) -> None:
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(fsspec.filesystem("memory", use_listings_cache=False), "find", find)
    message = "cannot be listed .NoCredentialsError: Unable to locate credentials.; is there such a bucket"
    with pytest.raises(OutputError, match=message):
        drive(made_job(), url)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("nope://bucket/x", InputError, "nope://bucket/x: Protocol not known: nope"),
        ("s3://", InputError, "expected a bucket and a prefix, as in s3://bucket/samples"),
        ("memory://", InputError, "expected a bucket"),
        ("hdfs3\0://x", InputError, "expected a folder or a URL"),
    ],
)
def test_urls_that_are_none(url: str, error: type[Exception], message: str, gaussian: fastvae.VAE) -> None:
    with pytest.raises(error, match=message):
        bulk.generate(gaussian, 1, url)
    with pytest.raises(error, match=message):
        bulk.verify(url)


@pytest.mark.parametrize(
    ("package", "message"),
    [("fsspec", "URLs need the package fsspec: pip install"), ("s3fs", "not installed: .*s3fs")],
)
def test_a_package_that_is_missing(package: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    with pytest.raises(UnsupportedError, match=message):
        open_folder("s3://bucket/x")


def test_what_killed_processes_were_about_to_upload_is_swept(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    for name in (f"fastvae-shard-{child.pid}-a", f"fastvae-shard-{os.getpid()}-b", "fastvae-shard-1-c", "fastvae-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    drive(made_job(), url)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"fastvae-shard-{os.getpid()}-b", "fastvae-shard-1-c", "fastvae-x"}
