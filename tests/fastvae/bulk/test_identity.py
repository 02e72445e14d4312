"""Hashing an input: told of while it takes time, and stopped at once."""

import hashlib
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fastvae
from fastvae import bulk
from fastvae.bulk import hashing, identity
from fastvae.bulk.progress import Progress
from fastvae.errors import InputError
from fastvae.files.dataset import DataFile

CHUNKS = 100


class Slow:
    """A hash that takes its time, and counts how often it is asked."""

    calls = 0

    def __init__(self, data: bytes = b"") -> None:
        self._hash = hashlib.sha256(data)
        self.hexdigest = self._hash.hexdigest

    def update(self, data: bytes) -> None:
        Slow.calls += 1
        time.sleep(0.002)
        self._hash.update(data)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[DataFile]:
    """Two files of many chunks, and one without any; hashing them takes longer than two words about it."""
    monkeypatch.setattr(identity, "CHUNK", 8)
    monkeypatch.setattr(hashing, "EVERY", 0.01)
    monkeypatch.setattr(identity, "default_threads", lambda: 2)
    monkeypatch.setattr(identity, "hashlib", SimpleNamespace(sha256=Slow))
    monkeypatch.setattr(Slow, "calls", 0)
    for name, count in {"a": CHUNKS, "b": 0, "c": CHUNKS}.items():
        (tmp_path / name).write_bytes(bytes(range(8)) * count)
    return [DataFile.of(tmp_path / name, tmp_path) for name in "abc"]


def test_it_is_told_how_far_it_is(files: list[DataFile]) -> None:
    told: list[tuple[int, int]] = []
    threads = set()

    def watch(done: int, total: int) -> None:
        told.append((done, total))
        threads.add(threading.current_thread())

    entries = identity.identify(files, {}, watch)
    assert [entry.sha256 for entry in entries] == [hashlib.sha256(file.path.read_bytes()).hexdigest() for file in files]
    assert told == sorted(told)
    assert {total for _, total in told} == {16 * CHUNKS}
    assert 0 < told[0][0] < told[-1][0] == 16 * CHUNKS
    assert threads == {threading.current_thread()}


def test_what_is_known_counts_as_done(files: list[DataFile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "RACE_NS", -(10**15))
    known = {entry.name: entry for entry in identity.identify(files[:2], {})}
    told: list[tuple[int, int]] = []
    identity.identify(files, known, lambda *counts: told.append(counts))
    assert told[0][0] >= 8 * CHUNKS
    assert told[-1] == (16 * CHUNKS, 16 * CHUNKS)


def test_quick_ones_are_not_worth_a_word(files: list[DataFile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "EVERY", 60.0)
    told: list[tuple[int, int]] = []
    identity.identify(files, {}, lambda *counts: told.append(counts))
    assert told == []


def test_ctrl_c_stops_all_threads(files: list[DataFile]) -> None:
    def watch(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        identity.identify(files, {}, watch)
    calls = Slow.calls
    assert 0 < calls < 2 * CHUNKS
    time.sleep(0.02)
    assert Slow.calls == calls


def test_a_file_that_cannot_be_read_stops_the_others(files: list[DataFile]) -> None:
    files[2].path.unlink()
    with pytest.raises(InputError, match="c: cannot be read"):
        identity.identify(files, {})
    assert Slow.calls < CHUNKS


def test_a_job_tells_of_it_before_it_starts(
    files: list[DataFile], gaussian: fastvae.VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((100, 6), np.float32))
    events: list[Progress] = []
    bulk.score(gaussian, tmp_path / "x.npy", tmp_path / "out", shard_size=40, watch=events.append)
    events = [event for event in events if event.event != "index"]
    names = [event.event for event in events]
    count = names.index("start")
    assert names[:count] == ["hash"] * count
    assert "hash" not in names[count:]
    first, last = events[0], events[count - 1]
    assert (first.n, first.of_shards, first.samples, first.rate) == (100, 3, 0, 0)
    assert 0 < first.hashed < first.to_hash == last.hashed == (tmp_path / "x.npy").stat().st_size
    assert (first.eta or 0) > 0 == last.eta
    assert events[-1].to_hash == 0
