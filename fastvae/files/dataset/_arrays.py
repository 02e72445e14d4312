"""Arrays on disk: ``.npy`` files, memory-mapped, ``.npz`` files, and Zarr arrays, read chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fastvae.errors import InputError
from fastvae.files._common import Values, needs, one_line
from fastvae.files._numpy import read_npy, read_npz
from fastvae.files.dataset._indexing import Advance
from fastvae.files.dataset._part import Chunk, DataFile, IdColumn, files_at

ZARR = "zarr.json"
# Of a folder of a Zarr job, which says nothing about rows.
INDEX = "index"


@dataclass(frozen=True)
class ArrayPart:
    """An array (rows, ...); that called ``key`` in an ``.npz`` file or a Zarr group.

    ``documents`` of the ``files`` are looked at whenever rows are read: those that say where the others are.
    """

    path: Path
    files: tuple[DataFile, ...]
    documents: tuple[DataFile, ...]
    key: str | None
    rows: int
    shape: tuple[int, ...]
    integers: bool
    ids: tuple[IdColumn, ...] = ()

    def files_of(self, low: int, high: int) -> Sequence[DataFile]:
        """See :class:`Part`."""
        return self.documents

    def chunks(self, low: int, high: int, size: int) -> Iterator[Chunk]:
        """See :class:`Part`."""
        array = _opened(self.path, self.key, self.documents[0].mtime_ns)
        for start in range(low, high, size):
            yield Chunk(np.asarray(array[start : min(start + size, high)]))


def open_array(path: Path, root: Path, key: str | None, advance: Advance) -> ArrayPart:
    """The rows of an ``.npy`` or ``.npz`` file, or of a folder with a Zarr array or group.

    ``advance`` is told of the bytes of each file.

    Raises:
        InputError: it cannot be read as one, holds no array of that name, or several and ``key`` is None.
        UnsupportedError: zarr is not installed.
    """
    zarr = path.is_dir()
    found = [file for file in sorted(path.rglob("*")) if file.is_file()] if zarr else [path]
    files = files_at(found, root, advance)
    documents = tuple(file for file in files if not zarr or file.path.name == ZARR)
    if path.suffix.lower() == ".npy" and key is not None:
        raise InputError(f"{path}: key means nothing for this kind of file")
    key = _only(path, key) if zarr else key
    array = _opened(path, key, documents[0].mtime_ns)
    dtype = np.dtype(array.dtype)
    if not array.ndim or dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise InputError(f"{path}: expected an array of rows of numbers, found {dtype} of shape {tuple(array.shape)}")
    shape = tuple(map(int, array.shape))
    return ArrayPart(path, files, documents, key, shape[0], shape[1:], dtype.kind != "f")


def _opened(path: Path, key: str | None, mtime_ns: int) -> Any:
    """The array, of which nothing but an ``.npz`` file's is in memory."""
    if path.is_dir():
        return _zarr(path, key)
    return _unpacked(path, key, mtime_ns) if path.suffix.lower() == ".npz" else read_npy(path)


@lru_cache(maxsize=1)
def _unpacked(path: Path, key: str | None, mtime_ns: int) -> Values:
    """The array in an ``.npz`` file that changed at that time, kept until another is asked for."""
    return read_npz(path, key)


def _zarr(path: Path, key: str | None) -> Any:
    with needs("zarr", "Zarr folders"):
        import zarr
    try:
        return zarr.open_array(path, mode="r", path=key or "")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: expected a Zarr array: {one_line(error)}") from error


def _only(path: Path, key: str | None) -> str | None:
    """The name of the array in a Zarr folder: ``key``, or that of a group's only one; None for a bare array."""
    with needs("zarr", "Zarr folders"):
        import zarr
    try:
        node = zarr.open(path, mode="r")
        names = sorted(name for name, _ in node.arrays()) if isinstance(node, zarr.Group) else None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: expected a Zarr array or group: {one_line(error)}") from error
    if names is None and key is None:
        return None
    chosen = [name for name in names or () if name == key or (key is None and name != INDEX)]
    if len(chosen) != 1:
        raise InputError(
            f"{path}: name one array with key; it holds {', '.join(map(repr, names or ())) or 'no others'}"
        )
    return chosen[0]
