"""What a bulk job tells while it counts the rows of its input."""

from pathlib import Path

import numpy as np
import pytest

import fastvae
from fastvae import bulk
from fastvae.bulk import progress
from fastvae.bulk.progress import Progress, before_job, now_and_then
from fastvae.files import ReadOptions

ROWS = 300
READING = ReadOptions(header=False)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CSV file of many pieces, about each of which there is a word."""
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr("fastvae.files.dataset._csv.CHUNK", 100)
    path = tmp_path / "rows.csv"
    np.savetxt(path, np.zeros((ROWS, 6)), "%d", ",")
    return path


def test_a_job_tells_of_it_first(gaussian: fastvae.VAE, table: Path, tmp_path: Path) -> None:
    events: list[Progress] = []
    bulk.score(gaussian, table, tmp_path / "out", reading=READING, watch=events.append)
    names = [event.event for event in events]
    found = events[: names.count("index")]
    assert len(found) > 2
    assert {event.event for event in found} == {"index"}
    size = table.stat().st_size
    assert 0 < found[0].hashed < found[-1].hashed == size
    assert {(event.n, event.of_shards, event.samples, event.to_hash) for event in found} == {(0, 0, 0, size)}
    assert (found[0].eta or 0) > 0 == found[-1].eta


def test_verify_tells_of_it_before_it_looks_at_shards(gaussian: fastvae.VAE, table: Path, tmp_path: Path) -> None:
    bulk.score(gaussian, table, tmp_path / "out", reading=READING, shard_size=200)
    events: list[Progress] = []
    assert bulk.verify(tmp_path / "out", gaussian, data=table, watch=events.append).ok
    names = [event.event for event in events]
    found = names.count("index")
    assert names == ["index"] * found + ["shard"] * 2
    assert found > 2
    assert 0 < events[0].hashed < events[found - 1].hashed == events[0].to_hash == table.stat().st_size


def test_ctrl_c_stops_it_before_there_is_a_folder(gaussian: fastvae.VAE, table: Path, tmp_path: Path) -> None:
    events: list[Progress] = []

    def watch(state: Progress) -> None:
        events.append(state)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bulk.encode(gaussian, table, tmp_path / "out", reading=READING, watch=watch)
    assert [event.event for event in events] == ["index"]
    assert not (tmp_path / "out").exists()


def test_it_is_told_every_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("fastvae.bulk.progress.time.monotonic", lambda: now[0])
    told: list[tuple[int, int]] = []
    for total in (40, 0):  # 0 is unknown, and has no end
        now[0] = 0.0
        tell = now_and_then(lambda *counts: told.append(counts))
        for done in range(1, 41):
            now[0] += 0.0625
            tell(done, total)
    assert told == [(16, 40), (32, 40), (40, 40), (16, 0), (32, 0)]


def test_quick_ones_are_not_worth_a_word() -> None:
    told: list[tuple[int, int]] = []
    now_and_then(lambda *counts: told.append(counts))(40, 40)
    assert told == []


def test_nobody_knows_how_long_a_folder_takes() -> None:
    events: list[Progress] = []
    before_job(events.append, "index")(40, 0)
    assert (events[0].hashed, events[0].to_hash, events[0].eta) == (40, 0, None)
