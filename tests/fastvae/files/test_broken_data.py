"""Data that cannot be opened or read: what is said, and of which file or row."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zarr

from fastvae.errors import InputError, JobError, UnsupportedError
from fastvae.files import ReadOptions
from fastvae.files.dataset import open_dataset
from tests.fastvae.files.data_sets import (
    FLAT,
    IDS,
    KINDS,
    NAMES,
    ROWS,
    N,
    csv,
    group,
    lists,
    npy_of,
    parquet,
    picture,
    samples,
    saved,
    tar,
    zipped,
)

pytestmark = pytest.mark.usefixtures("small_steps")


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npy")
    found = open_dataset(path, FLAT)
    blocks = found.blocks(0, N, 10)
    next(blocks)
    saved(path, -ROWS)
    with pytest.raises(JobError, match=r"x.npy: changed while the job was at work"):
        list(blocks)
    path.unlink()
    with pytest.raises(JobError, match=r"x.npy: cannot be read any more"):
        list(found.blocks(0, N, 10))


def test_no_array_of_an_archive_is_mistaken_for_an_older_one(tmp_path: Path) -> None:
    options = ReadOptions(key="b", image_shape=(6,))
    zipped(tmp_path / "x.npz")
    open_dataset(tmp_path / "x.npz", options)
    np.savez(tmp_path / "x.npz", b=-ROWS)
    np.testing.assert_array_equal(next(open_dataset(tmp_path / "x.npz", options).blocks(0, N, N)).values, -ROWS)


def _mixed(folder: Path) -> Path:
    folder.mkdir()
    saved(folder / "a.npy")
    parquet(folder / "b.parquet")
    return folder


def _other_ids(folder: Path) -> Path:
    folder.mkdir()
    parquet(folder / "a.parquet", id=[f"r{i}" for i in range(N)])
    parquet(folder / "b.parquet", id=range(N))
    return folder


def _named(folder: Path, *paths: str) -> Path:
    folder.mkdir()
    for path in paths:
        (folder / path).touch()
    return folder


def _two_arrays(path: Path) -> Path:
    group(path)
    zarr.open_group(path).create_array("more", data=ROWS)
    return path


Broken = tuple[Callable[[Path], Any], ReadOptions, str]
BROKEN: dict[str, Broken] = {
    "nothing": (lambda path: path / "x", FLAT, "no such file or folder"),
    "pattern": (lambda path: str(path / "*.npy"), FLAT, "no such file or folder"),
    "none": (lambda path: [], FLAT, "data: expected a path, a pattern or a list of them"),
    "number": (lambda path: 3, FLAT, "data: expected a path, a pattern or a list of them"),
    "null": (lambda path: "a\0", FLAT, "data: expected a path"),
    "suffix": (lambda path: _named(path, "a.txt") / "a.txt", FLAT, "expected .parquet, .npy, .npz, .csv, .tar"),
    "mixed": (_mixed, FLAT, r"holds .npy and .parquet files; name those of one kind, such as '\*.npy'"),
    "twice": (lambda path: [saved(path.with_suffix(".npy"))] * 2, FLAT, "a file is there twice"),
    "ids": (_other_ids, IDS, r"b.parquet: its ids are id \(int64\), those of .*a.parquet id \(text\)"),
    "empty": (lambda path: _named(path), ReadOptions(image_shape=(3, 8, 8)), "expected images .* in this folder"),
    "job": (lambda path: _named(path, "job.json"), FLAT, "the job in this folder is not done"),
    "no images": (lambda path: _named(path, "a.png"), FLAT, r"takes rows of shape \(6,\), not grey or RGB images"),
    "shape.npy": (lambda path: saved(path, ROWS[:, :5]), FLAT, r"expected rows of shape \(6,\), found \(5,\)"),
    "integers.npy": (lambda path: saved(path, np.ones((3, 6), int)), FLAT, "expected floats, found integers"),
    "scalar.npy": (lambda path: saved(path, np.array(3.0)), FLAT, "expected an array of rows of numbers"),
    "key.npy": (saved, ReadOptions(key="a", image_shape=(6,)), "key means nothing"),
    "text.parquet": (lambda path: parquet(path, id=["a"] * N), FLAT, "column 'id' holds string, not numbers"),
    "only ids.parquet": (
        lambda path: parquet(path),
        ReadOptions(image_shape=(6,), id_columns=tuple(NAMES)),
        "holds no columns of numbers",
    ),
    "bytes.parquet": (lambda path: path.write_bytes(b"PAR1") and path, FLAT, "expected a Parquet table"),
    "empty list.parquet": (lambda path: lists(path, [[]] * N), IDS, "first row of column 'v' holds no numbers"),
    "only ids.csv": (csv, ReadOptions(image_shape=(6,), id_columns=("id", *NAMES)), "holds no columns of numbers"),
    "two": (_two_arrays, FLAT, "name one array with key; it holds 'index', 'more', 'sample'"),
    "no such": (group, ReadOptions(key="x", image_shape=(6,)), "name one array with key"),
    "broken": (lambda path: _named(path, "zarr.json"), FLAT, "expected a Zarr array or group"),
    "gz.tar": (lambda path: tar(path, samples(), "w:gz"), FLAT, "expected a tar that is not compressed"),
    "no members.tar": (lambda path: tar(path, {}), FLAT, "holds no samples"),
    "text.tar": (lambda path: tar(path, {"a.txt": b""}), FLAT, "the first sample has neither .npy nor images"),
    "two.tar": (lambda path: tar(path, {"a.npy": b"", "a.b.npy": b""}), FLAT, "the first sample has npy, b.npy"),
    "lacking.tar": (
        lambda path: tar(path, {"a.npy": npy_of(ROWS[0]), "b.txt": b""}),
        FLAT,
        "sample 'b' has no member 'b.npy'",
    ),
    "not.tar": (lambda path: tar(path, {"a.npy": b"no array"}), FLAT, "a.npy: expected an .npy array"),
    "options.csv": (csv, ReadOptions(image_shape=(6,), id_columns=("id",), crop="center"), "--crop means nothing"),
    "options.tar": (lambda path: tar(path, samples()), ReadOptions(image_shape=(6,), resize=True), "--resize means"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_data_that_cannot_be(tmp_path: Path, name: str) -> None:
    write, options, message = BROKEN[name]
    with pytest.raises(InputError, match=message):
        open_dataset(write(tmp_path / name), options)


UNREADABLE: dict[str, Broken] = {
    "blanks.csv": (lambda path: path.write_text("a\n1\n  \n3\n") and path, FLAT, "rows 0 to 3 are 2 for pandas"),
    "null.parquet": (
        lambda path: parquet(path, id=pa.array([*range(8), None, *range(9, N)])),
        IDS,
        r"column 'id' of ids has no value in row 8",
    ),
    "large.parquet": (lambda path: parquet(path, np.full((9, 6), 2**60)), FLAT, "integers beyond"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_rows_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    write, options, message = UNREADABLE[name]
    path = write(tmp_path / name)
    shape = (1,) if name == "blanks.csv" else (6,)
    found = open_dataset(path, ReadOptions(image_shape=shape, id_columns=options.id_columns))
    with pytest.raises(InputError, match=message):
        list(found.blocks(0, len(found), 5))


def test_a_member_unlike_the_first_is_a_bad_row(tmp_path: Path) -> None:
    members = {"a.npy": npy_of(ROWS[0]), "b.npy": npy_of(ROWS[1, :4]), "c.npy": npy_of(ROWS[2])[:-4]}
    (chunk,) = open_dataset(tar(tmp_path / "t.tar", members), FLAT).blocks(0, 3, 3)
    assert "b.npy: expected an array like the first, of shape (6,), found (4,)" in chunk.bad[1]
    assert "c.npy: the header declares" in chunk.bad[2]
    assert np.isnan(chunk.values).all(1).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("module", "name"), [("pyarrow", "a.parquet"), ("pandas", "c.csv"), ("zarr", "group"), ("PIL", "t.tar")]
)
def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    picture(0).save(tmp_path / "a.png")
    members = {"a.png": (tmp_path / "a.png").read_bytes()}
    path = tar(tmp_path / name, members) if module == "PIL" else KINDS[name][0](tmp_path / name)
    options = ReadOptions(image_shape=(3, 6, 8)) if module == "PIL" else FLAT
    for loaded in ("pyarrow", "pyarrow.parquet", "pandas", "zarr", "PIL.Image"):
        if loaded.split(".")[0] == module:
            monkeypatch.setitem(sys.modules, loaded, None)
    with pytest.raises(UnsupportedError, match="need the package"):
        open_dataset(path, options)
