"""Where results go: one way of writing every kind of data file, batch by batch and atomically.

``.npy``, ``.csv`` and ``.parquet`` are written as results come, in memory that does not grow with the rows; ``.npz``
and ``.png`` are collected first.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastvae.atomic import atomic_write
from fastvae.errors import InputError, OutputError
from fastvae.files._common import Values, needs
from fastvae.files._images import grid_png

SUFFIXES = (".npy", ".npz", ".csv", ".parquet", ".png")


@dataclass(frozen=True)
class Field:
    """One array of a result.

    Args:
        name: its name in an ``.npz``.
        columns: the columns that a row of it fills in a table.
        dtypes: of those columns; empty for that of the array.
        rows_axis: which of its axes are rows; tables take 0 only.
        table_only: left out of ``.npy`` and ``.npz``.
    """

    name: str
    columns: tuple[str, ...] = ()
    dtypes: tuple[np.dtype[Any], ...] = ()
    rows_axis: int = 0
    table_only: bool = False


@dataclass(frozen=True)
class Layout:
    """How fields become the columns of a table, called ``names`` in that order."""

    fields: Sequence[Field]
    names: Sequence[str]

    def columns(self, values: Mapping[str, Values]) -> dict[str, Values]:
        """The columns of a batch."""
        columns: dict[str, Values] = {}
        for field in self.fields:
            array = values[field.name]
            flat = array.reshape(len(array), len(field.columns))
            dtypes = field.dtypes or (array.dtype,) * len(field.columns)
            for index, (name, dtype) in enumerate(zip(field.columns, dtypes, strict=True)):
                columns[name] = flat[:, index].astype(dtype, copy=False)
        return {name: columns[name] for name in self.names}


class Sink:
    """A file being written."""

    def write(self, values: Mapping[str, Values]) -> None:
        """Append a batch: every field's array, by name."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what is still missing."""

    def close(self) -> None:
        """Let go of the file, finished or not."""


def check_target(path: Path, suffixes: Sequence[str], *, force: bool = False) -> str:
    """The kind of file ``path`` asks for, one of ``suffixes``.

    Raises:
        InputError: another suffix.
        OutputError: no such folder, or the file exists and ``force`` is not given.
    """
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise InputError(f"--out: expected a name ending in {', '.join(suffixes)}, got {str(path)!r}")
    if not path.parent.is_dir():
        raise OutputError(f"--out: cannot write {path}: no such folder {path.parent}")
    if path.is_dir():
        raise OutputError(f"--out: cannot write {path}: it is a folder")
    if path.exists() and not force:
        raise OutputError(f"--out: {path} exists; pass --force to replace it")
    return suffix


@contextlib.contextmanager
def open_sink(
    path: Path, rows: int, fields: Sequence[Field], *, order: Sequence[str] = (), grid_columns: int = 0
) -> Iterator[Sink]:
    """A file to write ``rows`` rows of ``fields`` to; it appears when the block ends without an exception.

    Args:
        path: a name that :func:`check_target` accepted.
        rows: how many rows there will be in all.
        order: names of columns of a table in the order they shall have, after those that it does not name.
        grid_columns: images in a line of a ``.png``; 0 picks a grid that is nearly square.

    Raises:
        InputError: two columns of one name.
        OutputError: the file cannot be written.
        UnsupportedError: the package that writes it is not installed.
    """
    columns = Counter(column for field in fields for column in field.columns)
    repeated = [name for name, count in columns.items() if count > 1]
    if repeated:
        raise InputError(f"--id-column: {repeated[0]!r} is also a column of the result")
    place = {name: index for index, name in enumerate(order)}
    layout = Layout(fields, sorted(columns, key=lambda name: place.get(name, -1)))
    with atomic_write(path) as file, contextlib.closing(_sink(path, file, rows, layout, grid_columns)) as sink:
        yield sink
        sink.finish()


def _sink(path: Path, file: IO[bytes], rows: int, layout: Layout, grid_columns: int) -> Sink:
    arrays = [field for field in layout.fields if not field.table_only]
    match path.suffix.lower():
        case ".npy" if arrays[0].rows_axis == 0:
            return _NpySink(file, rows, arrays[0])
        case ".npy":
            return _WholeNpySink(file, arrays[:1])
        case ".npz":
            return _NpzSink(file, arrays)
        case ".csv":
            return _CsvSink(file, layout)
        case ".parquet":
            return _ParquetSink(file, layout)
        case _:
            return _PngSink(file, arrays, grid_columns)


class _NpySink(Sink):
    """One field as one array: its header says how many rows there will be, then rows follow."""

    def __init__(self, file: IO[bytes], rows: int, field: Field) -> None:
        self._file, self._rows, self._name = file, rows, field.name
        self._started = False

    def write(self, values: Mapping[str, Values]) -> None:
        array = values[self._name]
        if not self._started:
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": (self._rows, *array.shape[1:])}
            np.lib.format.write_array_header_1_0(self._file, header)
            self._started = True
        self._rows -= len(array)
        self._file.write(np.ascontiguousarray(array).tobytes())

    def finish(self) -> None:
        assert self._started
        assert self._rows == 0


class _Collector(Sink):
    """A sink that needs all rows before it can write."""

    def __init__(self, file: IO[bytes], fields: Sequence[Field]) -> None:
        self._file, self._fields = file, fields
        self._parts: dict[str, list[Values]] = {field.name: [] for field in fields}

    def write(self, values: Mapping[str, Values]) -> None:
        for name, parts in self._parts.items():
            parts.append(values[name])

    def _arrays(self) -> dict[str, Values]:
        return {field.name: np.concatenate(self._parts.pop(field.name), field.rows_axis) for field in self._fields}


class _WholeNpySink(_Collector):
    """One array whose rows are not its first axis."""

    def finish(self) -> None:
        (array,) = self._arrays().values()
        np.save(self._file, array, allow_pickle=False)


class _NpzSink(_Collector):
    """Every field as one array."""

    def finish(self) -> None:
        arrays: dict[str, Any] = self._arrays()
        np.savez(self._file, **arrays)


class _PngSink(_Collector):
    """A grid of images; several fields take turns, line by line."""

    def __init__(self, file: IO[bytes], fields: Sequence[Field], columns: int) -> None:
        super().__init__(file, fields)
        self._columns = columns

    def finish(self) -> None:
        images = list(self._arrays().values())
        columns = self._columns or square_columns(len(images[0]), len(images))
        starts = range(0, len(images[0]), columns)
        self._file.write(grid_png([field[low : low + columns] for low in starts for field in images]))


class _CsvSink(Sink):
    """A header, then a line for every row; numbers are written so that they read back equal."""

    def __init__(self, file: IO[bytes], layout: Layout) -> None:
        with needs("pandas", ".csv files"):
            import pandas as pd
        self._file, self._layout, self._frame = file, layout, pd.DataFrame
        self._started = False

    def write(self, values: Mapping[str, Values]) -> None:
        frame = self._frame(self._layout.columns(values))
        text = frame.to_csv(index=False, header=not self._started, lineterminator="\n")
        self._started = True
        self._file.write(text.encode())

    def finish(self) -> None:
        assert self._started


class _ParquetSink(Sink):
    """A row group for every batch."""

    def __init__(self, file: IO[bytes], layout: Layout) -> None:
        with needs("pyarrow", ".parquet files"):
            import pyarrow as pa
            import pyarrow.parquet as pq
        self._file, self._layout = file, layout
        self._pa, self._open = pa, pq.ParquetWriter
        self._writer: Any = None

    def write(self, values: Mapping[str, Values]) -> None:
        pa = self._pa
        columns = self._layout.columns(values)
        kinds = [pa.string() if array.dtype == object else None for array in columns.values()]
        arrays = [pa.array(array, type=kind) for array, kind in zip(columns.values(), kinds, strict=True)]
        table = pa.table(arrays, names=list(columns))
        if self._writer is None:
            self._writer = self._open(self._file, table.schema)
        self._writer.write_table(table)

    def finish(self) -> None:
        self._writer.close()

    def close(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()


def square_columns(rows: int, fields: int = 1) -> int:
    """Images in a line of a grid that is nearly square."""
    return max(1, math.ceil(math.sqrt(rows * fields)))
