"""Data sets: every kind of file gives the same rows from any one on, in any pieces, also after a pickle."""

from __future__ import annotations

import io
import pickle
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from numpy.typing import NDArray

from fastvae.errors import InputError, JobError, UnsupportedError
from fastvae.files import ReadOptions
from fastvae.files.dataset import Chunk, Dataset, open_dataset
from fastvae.files.dataset._part import batched

Rows = NDArray[Any]
N = 50
ROWS = np.random.default_rng(0).standard_normal((N, 6)).astype(np.float32)
NAMES = [f"x{i}" for i in range(6)]
FLAT = ReadOptions(image_shape=(6,))
IDS = ReadOptions(image_shape=(6,), id_columns=("id",))


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvae.files.dataset._csv.STEP", 4)
    monkeypatch.setattr("fastvae.files.dataset._csv.CHUNK", 37)


def parquet(path: Path, rows: Rows = ROWS, *, group: int = 7, **ids: Any) -> Path:
    columns = {name: rows[:, i] for i, name in enumerate(NAMES)}
    pq.write_table(pa.table(ids | columns), path, row_group_size=group)
    return path


def lists(path: Path, values: Any) -> Path:
    pq.write_table(pa.table({"id": range(N), "v": values}), path, row_group_size=N)
    return path


def csv(path: Path) -> Path:
    """Names with quotes and newlines, one of them long, cells that end with a carriage return, empty lines."""
    long = "long\n" * 30
    names = [long if i == 25 else f'r ""{i}\n' for i in range(N)]
    cells = [",".join(map(repr, row.tolist())) for row in ROWS]
    lines = [
        f'"{name}",{numbers}' + "\r\n" * (1 + i % 3) for i, (name, numbers) in enumerate(zip(names, cells, strict=True))
    ]
    path.write_bytes(("id," + ",".join(NAMES) + "\n\n" + "".join(lines)).removesuffix("\r\n").encode())
    return path


def without_header(path: Path) -> Path:
    np.savetxt(path, ROWS, "%.9g", ",")
    return path


def npy_of(row: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, row)
    return file.getvalue()


def tar(path: Path, members: dict[str, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def samples() -> dict[str, bytes]:
    members = {}
    for i, row in enumerate(ROWS):
        members |= {f"d.x/{i:04}.x.json": b"{}", f"d.x/{i:04}.npy": npy_of(row)}
    return members


def group(path: Path) -> Path:
    store = zarr.open_group(path, mode="w")
    store.create_array("sample", data=ROWS, chunks=(9, 6))
    store.create_array("index", data=np.arange(N))
    return path


def array(path: Path) -> Path:
    zarr.create_array(path, data=ROWS, chunks=(7, 3))
    return path


def saved(path: Path, rows: Rows = ROWS) -> Path:
    np.save(path, rows)
    return path


def zipped(path: Path) -> Path:
    np.savez(path, a=ROWS[:3], b=ROWS)
    return path


def parts(path: Path) -> Path:
    path.mkdir()
    for i, low in enumerate(range(0, N, 20)):
        parquet(path / f"{i}.parquet", ROWS[low : low + 20], id=[f"r{row}" for row in range(low, min(N, low + 20))])
    return path


FIXED = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), 6)
KINDS: dict[str, tuple[Callable[[Path], Path], ReadOptions, str]] = {
    "a.parquet": (lambda path: parquet(path, id=[f"r{i}" for i in range(N)]), IDS, "r49"),
    "fixed.parquet": (lambda path: lists(path, FIXED), IDS, "49"),
    "lists.parquet": (lambda path: lists(path, ROWS.tolist()), IDS, "49"),
    "parts": (parts, IDS, "r49"),
    "c.csv": (csv, IDS, 'r "49\n'),
    "h.csv": (without_header, ReadOptions(header=False, image_shape=(6,)), ""),
    "x.npy": (saved, FLAT, ""),
    "x.npz": (zipped, ReadOptions(key="b", image_shape=(6,)), ""),
    "array": (array, FLAT, ""),
    "group": (group, FLAT, ""),
    "t.tar": (lambda path: tar(path, samples()), FLAT, "d.x/0049"),
}


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


def picture(seed: int, size: tuple[int, int] = (8, 6)) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


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
