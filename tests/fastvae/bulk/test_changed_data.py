"""Data sets that change between runs of a job, or while it is at work."""

import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastvae
from fastvae import bulk
from fastvae.bulk.progress import Progress
from fastvae.bulk.table import Rows
from fastvae.errors import IncompleteJobError, JobError
from tests.fastvae.bulk.tables import IDS, columns_in, invariant, write_table


def test_an_input_that_changed_is_refused(tmp_path: Path, gaussian: fastvae.VAE, rows: Rows) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for part in range(3):
        np.save(data / f"{part}.npy", rows[part * 100 :][:100])
    out = tmp_path / "out"
    report = bulk.encode(gaussian, data, out, shard_size=90)

    def refused(match: str) -> None:
        with pytest.raises(JobError, match=match):
            bulk.encode(gaussian, data, out, shard_size=90)
        with pytest.raises(JobError, match=match):
            bulk.verify(out, gaussian, data=data)

    status = (data / "1.npy").stat()
    changed = bytearray((data / "1.npy").read_bytes())
    changed[-1] ^= 1
    (data / "1.npy").write_bytes(changed)
    os.utime(data / "1.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
    refused(r"data are not those that the job began with \(1.npy has changed\)")
    changed[-1] ^= 1
    (data / "1.npy").write_bytes(changed)
    assert bulk.encode(gaussian, data, out, shard_size=90) == report
    np.save(data / "3.npy", rows[:5])
    refused(r"\(3.npy is new\)")
    (data / "3.npy").unlink()
    (data / "2.npy").rename(tmp_path / "2.npy")
    refused(r"\(2.npy is missing\)")
    (tmp_path / "2.npy").rename(data / "2.npy")
    (out / "input.jsonl").write_text("no entry\n")
    (data / "0.npy").rename(data / "00.npy")
    refused("their files are others")
    (data / "00.npy").rename(data / "0.npy")
    moved = tmp_path / "elsewhere"
    data.rename(moved)
    assert bulk.encode(gaussian, moved, out, shard_size=90) == report
    assert [json.loads(line)["name"] for line in (out / "input.jsonl").read_text().splitlines()] == [
        "0.npy",
        "1.npy",
        "2.npy",
    ]


def test_an_input_of_many_files(
    tmp_path: Path, gaussian: fastvae.VAE, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastvae.bulk.identity.default_threads", lambda: 2)
    (tmp_path / "data").mkdir()
    for row in range(100):
        np.save(tmp_path / "data" / f"{row:03}.npy", rows[row : row + 1])
    bulk.score(gaussian, tmp_path / "data", tmp_path / "out")
    np.testing.assert_array_equal(columns_in(tmp_path / "out")["reconstruction"], invariant(gaussian).score(rows[:100]))
    entries = [json.loads(line) for line in (tmp_path / "out" / "input.jsonl").read_text().splitlines()]
    assert [entry["name"] for entry in entries] == [f"{row:03}.npy" for row in range(100)]
    assert entries[7]["sha256"] == hashlib.sha256((tmp_path / "data" / "007.npy").read_bytes()).hexdigest()


def test_an_input_is_hashed_again_only_where_it_may_have_changed(
    tmp_path: Path, gaussian: fastvae.VAE, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    monkeypatch.setattr("fastvae.bulk.identity.RACE_NS", 0)
    bulk.score(gaussian, table, tmp_path / "out", reading=IDS)

    def counting(*arguments: Any) -> Any:
        hashed.append(arguments)
        return hashlib.sha256(*arguments)

    monkeypatch.setattr("fastvae.bulk.identity.hashlib", SimpleNamespace(sha256=counting))
    bulk.score(gaussian, table, tmp_path / "out", reading=IDS)
    assert len(hashed) == 1  # that of the list
    table.touch()
    bulk.score(gaussian, table, tmp_path / "out", reading=IDS)
    assert len(hashed) == 3
    monkeypatch.setattr("fastvae.bulk.identity.RACE_NS", 10**15)
    bulk.score(gaussian, table, tmp_path / "out", reading=IDS)
    assert len(hashed) == 5


def test_an_input_that_changes_meanwhile_fails_its_shards(
    tmp_path: Path, gaussian: fastvae.VAE, table: Path, rows: Rows
) -> None:
    def watch(state: Progress) -> None:
        if state.event == "shard":
            write_table(table, -rows)

    with pytest.raises(IncompleteJobError, match=r"table.parquet: changed while the job was at work"):
        bulk.score(gaussian, table, tmp_path / "out", reading=IDS, shard_size=5, watch=watch)
