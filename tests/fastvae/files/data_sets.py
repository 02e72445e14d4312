"""Data sets of every kind, of the same few rows."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray

from fastvae.files import ReadOptions

Rows = NDArray[Any]
N = 50
ROWS = np.random.default_rng(0).standard_normal((N, 6)).astype(np.float32)
NAMES = [f"x{i}" for i in range(6)]
FLAT = ReadOptions(image_shape=(6,))
IDS = ReadOptions(image_shape=(6,), id_columns=("id",))


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


def picture(seed: int, size: tuple[int, int] = (8, 6)) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)
