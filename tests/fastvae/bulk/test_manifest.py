"""Manifests with lines that are torn, foreign or of files that have changed: only what is there counts."""

import json
from pathlib import Path

import pytest

from fastvae.bulk.folder import Folder
from fastvae.bulk.progress import Progress
from tests.fastvae.bulk.fakes import assert_whole, contents, drive, made_job, undisturbed


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
