"""Jobs in S3, of a server in this process: what a store in memory cannot show."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

import fastvae
from fastvae import bulk
from fastvae.bulk.store import Store
from fastvae.errors import JobError, OutputError
from tests.fastvae.bulk.fakes import FaultyStore, drive, made_job

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket, in the only S3 that this process, and those it starts, know of."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for key in KEYS:
            patch.setenv(key, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("samples")
        yield "s3://samples"
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


def test_objects_are_created_once_and_nothing_is_cached(bucket: str, tmp_path: Path) -> None:
    one = Store(f"{bucket}/calls")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    other = Store(f"{bucket}/calls")  # as in another process
    assert one._files is not other._files
    assert one.shared
    assert one.list() == {}
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "b").write_bytes(b"second!")
    assert other.create("x/a", tmp_path / "a")
    assert one.list() == {"x/a": 5}
    assert other.create("x/b", tmp_path / "b")
    assert one.get("x/b") == b"second!"
    assert one.list() == {"x/a": 5, "x/b": 7}
    other.delete("x/b")
    assert not one.create("x/a", tmp_path / "b")
    assert other.get("x/a") == b"first"
    one.put("x/a", tmp_path / "b")
    other.download("x/a", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"second!"
    assert other.list() == {"x/a": 7}
    one.delete("x/a")
    one.delete("x/a")
    with pytest.raises(FileNotFoundError):
        other.get("x/a")
    assert other.list() == {}


def test_dead_after_every_call(bucket: str, tmp_path: Path) -> None:
    job = made_job(n=3)
    success = drive(job, tmp_path)
    undisturbed = FaultyStore(f"{bucket}/undisturbed")
    drive(job, f"{bucket}/undisturbed", store=undisturbed)
    expected = Store(f"{bucket}/undisturbed").list()
    for at in range(1, len(undisturbed.log)):
        place = f"{bucket}/dead/{at}"
        store = FaultyStore(place, at, after=True)
        with pytest.raises(OSError, match=r"that was chosen|dead"):
            drive(job, place, store=store)
        assert len(store.log) == at + 1
        assert drive(job, place) == success
        assert Store(place).list() == expected


def test_shards_of_several_objects(bucket: str) -> None:
    for format in ("zarr", "png"):
        drive(made_job(n=5, format=format), f"{bucket}/{format}")
        assert bulk.verify(f"{bucket}/{format}").problems == ()


def test_workers_in_processes(bucket: str, tmp_path: Path) -> None:
    vae, url = fastvae.load("digits", impl="reference", batch_invariant=True), f"{bucket}/a.job"
    report = bulk.generate(vae, 1000, url, shard_size=200, workers=2)
    local = bulk.generate(vae, 1000, tmp_path / "local", shard_size=300, format="npy")
    assert (report.folder, report.content) == (url, local.content)
    found = bulk.verify(url, vae)
    assert (found.problems, found.shards, found.rows) == ((), 5, 64)
    with pytest.raises(JobError, match="holds another job"):
        bulk.generate(vae, 1001, url, shard_size=200)


def test_no_bucket_and_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        OutputError, match=r"s3://nothing/x: cannot be listed \(.*bucket does not exist.*\); is there such"
    ):
        drive(made_job(), "s3://nothing/x")
    with pytest.raises(JobError, match=r"no job.json that can be read \(.*bucket does not exist"):
        bulk.verify("s3://nothing/x")
    for key in KEYS:
        monkeypatch.delenv(key)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(
        OutputError, match=r"NoCredentialsError: Unable to locate credentials\); is there .* credentials"
    ):
        drive(made_job(), f"{bucket}/x")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
