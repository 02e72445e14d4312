"""Data sets: every kind of file gives the same rows from any one on, in any pieces, also after a pickle."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastvae.files import ReadOptions
from fastvae.files.dataset import Chunk, Dataset, open_dataset
from fastvae.files.dataset._part import batched
from tests.fastvae.files.data_sets import (
    FLAT,
    IDS,
    KINDS,
    NAMES,
    ROWS,
    N,
    lists,
    parquet,
    picture,
    saved,
    tar,
)

pytestmark = pytest.mark.usefixtures("small_steps")


@pytest.mark.parametrize("name", KINDS)
def test_rows_from_any_one_on(tmp_path: Path, name: str) -> None:
    write, options, last = KINDS[name]
    found: Dataset = pickle.loads(pickle.dumps(open_dataset(write(tmp_path / name), options)))
    assert len(found) == N
    for low, high, size in ((0, N, N), (0, N, 3), (3, 41, 8), (49, 50, 1), (7, 14, 7), (16, 24, 100)):
        chunks = list(found.blocks(low, high, size))
        assert all(len(chunk) == size for chunk in chunks[:-1])
        np.testing.assert_array_equal(
            np.concatenate([chunk.values for chunk in chunks]).astype(np.float32), ROWS[low:high]
        )
        if high == N:
            assert [str(values[-1]) for values in chunks[-1].ids.values()] == ([last] if last else [])
    assert not list(found.blocks(5, 5, 5))


def test_what_is_wrong_with_rows_keeps_its_place() -> None:
    chunks = [Chunk(np.zeros(3), {}, {1: "a"}), Chunk(np.zeros(4), {}, {0: "b", 3: "c"})]
    assert [chunk.bad for chunk in batched(chunks, 5)] == [{1: "a", 3: "b"}, {1: "c"}]


def test_data_in_pieces(tmp_path: Path) -> None:
    for i in range(12):
        np.save(tmp_path / f"{i}.npy", ROWS[i : i + 1])
    found = open_dataset(tmp_path, FLAT)
    assert [file.name for file in found.files] == sorted(f"{i}.npy" for i in range(12))
    one = next(open_dataset(str(tmp_path / "1*.npy"), FLAT).blocks(0, 3, 3))
    np.testing.assert_array_equal(one.values, ROWS[[1, 10, 11]])
    two = open_dataset([tmp_path / "3.npy", str(tmp_path / "2.npy")], FLAT)
    np.testing.assert_array_equal(next(two.blocks(0, 2, 2)).values, ROWS[[3, 2]])
    (tmp_path / "_metadata.csv").touch()
    (tmp_path / "below").mkdir()
    np.save(tmp_path / "below" / "a.npy", ROWS)
    assert len(open_dataset(tmp_path, ReadOptions(image_shape=(6,), recursive=True))) == 62
    names = [file.name for file in open_dataset([tmp_path / "3.npy", tmp_path / "below"], FLAT).files]
    assert names == ["3.npy", "below/a.npy"]


def test_rows_may_be_flat(tmp_path: Path) -> None:
    options = ReadOptions(image_shape=(2, 3), scale=2)
    saved(tmp_path / "a.npy"), saved(tmp_path / "b.npy", ROWS.reshape(N, 2, 3))
    found = list(open_dataset(tmp_path, options).blocks(40, 60, 20))
    expected = np.concatenate([ROWS, ROWS]).reshape(-1, 2, 3)[40:60] / np.float32(2)
    np.testing.assert_array_equal(found[0].values, expected)


def test_images_in_folders_and_tars(tmp_path: Path) -> None:
    folder, members = tmp_path / "images", {}
    (folder / "b").mkdir(parents=True)
    for i, name in enumerate(["b/a", "a", "c", "b"]):
        picture(i).save(folder / f"{name}.png")
        members[f"{name}.png"] = (folder / f"{name}.png").read_bytes()
    members["c.png"] = members["c.png"][:80]
    (folder / "c.png").write_bytes(members["c.png"])
    (folder / "labels.csv").touch()
    options = ReadOptions(image_shape=(3, 6, 8), recursive=True)
    order = {"images": ["a", "b", "b/a", "c"], "t.tar": ["b/a", "a", "c", "b"]}
    tar(tmp_path / "t.tar", members)
    for name, keys in order.items():
        found = open_dataset(tmp_path / name, options, (-1.0, 1.0))
        assert found.pictures
        (chunk,) = found.blocks(0, 4, 4)
        stems = [str(key).removesuffix(".png") for values in chunk.ids.values() for key in values]
        assert stems == keys
        (bad,) = chunk.bad
        assert keys[bad] == "c"
        assert "c.png: cannot be decoded" in chunk.bad[bad]
        assert np.isnan(chunk.values[bad]).all()
        first = np.asarray(picture(["b/a", "a", "c", "b"].index(keys[0])), np.float32).transpose(2, 0, 1)
        np.testing.assert_array_equal(chunk.values[0], first / np.float32(255) * 2 - 1)
        (later,) = found.blocks(bad, 4, 9)
        assert [*later.bad] == [0]


def test_cells_and_lists_that_hold_no_number(tmp_path: Path) -> None:
    text = "\n".join(["id," + ",".join(NAMES), "a,1,2,3,4,5,6", "b,1,x,3,4,5,6", "c,1,,3,4,5,True", "d,1,2,3"])
    (tmp_path / "t.csv").write_text(text)
    (chunk,) = open_dataset(tmp_path / "t.csv", IDS).blocks(0, 4, 4)
    assert chunk.bad == {
        1: "column 'x1' does not hold a number (row 0: 'x')",
        2: "column 'x5' does not hold a number (row 0: 'True')",
    }
    assert np.isnan(chunk.values).any(1).tolist() == [False, True, True, True]
    values = [row.tolist() for row in ROWS]
    values[9], values[20] = values[9][:4], None
    (chunk,) = open_dataset(lists(tmp_path / "l.parquet", values), IDS).blocks(5, N, N)
    assert chunk.bad == {4: "column 'v' holds 4 numbers, not 6", 15: "column 'v' holds no list, not 6"}
    np.testing.assert_array_equal(chunk.values[5:15], ROWS[10:20])


def test_types_do_not_depend_on_the_rows_that_are_read(tmp_path: Path) -> None:
    """Division in float32 or float64 is decided by the file, not by where the missing values are."""
    column = pa.array([1, None, 3, 4], type=pa.int16())
    pq.write_table(pa.table(dict.fromkeys(NAMES, column)), tmp_path / "t.parquet", row_group_size=2)
    found = open_dataset(tmp_path / "t.parquet", ReadOptions(image_shape=(6,), scale=3))
    assert {chunk.values.dtype for chunk in found.blocks(0, 4, 1)} == {np.dtype(np.float32)}


def test_a_row_group_is_not_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_dataset(parquet(tmp_path / "t.parquet", group=N), FLAT)
    sizes: list[int] = []
    original = type(found.parts[0])._chunk  # type: ignore[attr-defined]

    def counted(self: Any, batch: Any, start: int) -> Chunk:
        sizes.append(len(batch))
        return original(self, batch, start)

    monkeypatch.setattr(type(found.parts[0]), "_chunk", counted)
    assert sum(len(chunk) for chunk in found.blocks(10, 50, 8)) == 40
    assert max(sizes) <= 8


def test_a_column_of_a_row_group_is_not_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[dict[str, Any]] = []
    original = pq.ParquetFile

    def counted(path: Path, **options: Any) -> Any:
        opened.append(options)
        return original(path, **options)

    lists(tmp_path / "t.parquet", ROWS.tolist())
    monkeypatch.setattr(pq, "ParquetFile", counted)
    list(open_dataset(tmp_path / "t.parquet", IDS).blocks(0, N, 8))
    assert opened == [{"buffer_size": 2**20, "pre_buffer": False}] * 2
