"""``recheck``: shards with the right size and other bytes are found before a job goes on, and made again."""

import time
from pathlib import Path

import fsspec
import pytest

import fastvae
from fastvae import bulk
from fastvae.bulk import hashing, place
from fastvae.bulk.disk import sha256_of
from fastvae.bulk.progress import Progress
from tests.fastvae.bulk.fakes import files_in


def flipped(data: bytes) -> bytes:
    """As many bytes, one of them another."""
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("format", ["npy", "zarr", "webdataset"])
def test_a_shard_with_other_bytes_is_made_again(gaussian: fastvae.VAE, out: Path, format: str) -> None:
    def go_on(**options: bool) -> list[Progress]:
        events: list[Progress] = []
        bulk.generate(gaussian, 100, out, shard_size=30, format=format, watch=events.append, **options)  # type: ignore[arg-type]
        return events

    go_on()
    whole = files_in(out)
    damaged = next(name for name in sorted(whole) if name.startswith(("shard-000000002", "sample/c.2")))
    (out / damaged).write_bytes(flipped(whole[damaged]))
    assert [event.event for event in go_on()] == ["start", "done"]
    assert files_in(out)[damaged] != whole[damaged]
    events = go_on(recheck=True)
    assert [(event.event, event.shards) for event in events if event.event != "ready"] == [
        ("start", 3),
        ("shard", 4),
        ("done", 4),
    ]
    assert events[0].message == "3 of 4 shards are there, 1 more have changed"
    assert files_in(out).keys() == whole.keys()
    assert {name for name, data in files_in(out).items() if data != whole[name]} <= {"manifest.jsonl"}
    assert bulk.verify(out, gaussian).ok
    success = (out / "_SUCCESS").stat()
    assert [event.event for event in go_on(recheck=True)] == ["start", "done"]
    assert (out / "_SUCCESS").stat() == success


def test_in_a_store(gaussian: fastvae.VAE, tmp_path: Path) -> None:
    url, files = f"memory:/{tmp_path}", fsspec.filesystem("memory")
    bulk.generate(gaussian, 100, url, shard_size=30)
    path = f"{tmp_path}/shard-000000001.parquet"
    whole = files.cat_file(path)
    files.pipe_file(path, flipped(whole))
    bulk.generate(gaussian, 100, url, shard_size=30)
    assert not bulk.verify(url).ok
    bulk.generate(gaussian, 100, url, shard_size=30, recheck=True)
    assert files.cat_file(path) == whole
    assert bulk.verify(url).ok
    files.rm(str(tmp_path), recursive=True)


def test_over_a_data_set_it_is_told_how_far_it_is(
    gaussian: fastvae.VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk.generate(gaussian, 100, tmp_path / "data")
    bulk.score(gaussian, tmp_path / "data", tmp_path / "out", shard_size=20)
    monkeypatch.setattr(hashing, "EVERY", 0.01)
    monkeypatch.setattr(place, "sha256_of", lambda *arguments: time.sleep(0.05) or sha256_of(*arguments))
    events: list[Progress] = []
    bulk.score(gaussian, tmp_path / "data", tmp_path / "out", shard_size=20, recheck=True, watch=events.append)
    found = [event for event in events if event.event == "recheck"]
    others = [event.event for event in events if event not in found and event.event != "index"]
    assert others == ["start", "done"]
    assert events.index(found[-1]) < [event.event for event in events].index("start")
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("shard-*"))
    assert (found[0].hashed, found[-1].hashed) == (0, size)
    assert {(event.to_hash, event.n, event.of_shards) for event in found} == {(size, 100, 5)}


def test_a_shard_that_cannot_be_read_is_made_again(
    gaussian: fastvae.VAE, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk.generate(gaussian, 100, out, shard_size=30)

    def broken(*_: object) -> str:
        raise OSError("Input/output error")

    monkeypatch.setattr(place, "sha256_of", broken)
    events: list[Progress] = []
    bulk.generate(gaussian, 100, out, shard_size=30, recheck=True, watch=events.append)
    assert events[0].message == "0 of 4 shards are there, 4 more have changed"
    assert events[-1].shards == 4
