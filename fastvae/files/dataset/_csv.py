"""CSV files with an index of where rows begin, made in one pass over their bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastvae.errors import InputError
from fastvae.files._common import Values, check_regular
from fastvae.files._tables import csv_frame, csv_names, example, make_table
from fastvae.files.dataset._indexing import Advance
from fastvae.files.dataset._part import TEXT, Chunk, DataFile, IdColumn, texts

# Rows between two places that the index knows.
STEP = 1024
CHUNK = 2**22
NEWLINE, RETURN, QUOTE = b'\n\r"'


@dataclass(frozen=True, eq=False)
class CsvPart:
    """A CSV file; ``marks`` are the bytes at which every STEP-th row begins, and the file's end."""

    file: DataFile
    names: tuple[str, ...]
    ids: tuple[IdColumn, ...]
    rows: int
    marks: Values
    integers: bool = False

    @property
    def path(self) -> Path:
        """See :class:`Part`."""
        return self.file.path

    @property
    def shape(self) -> tuple[int, ...]:
        """See :class:`Part`."""
        return (len(self.names) - len(self.ids),)

    @property
    def files(self) -> tuple[DataFile, ...]:
        """See :class:`Part`."""
        return (self.file,)

    def files_of(self, low: int, high: int) -> Sequence[DataFile]:
        """See :class:`Part`."""
        return self.files

    def chunks(self, low: int, high: int, size: int) -> Iterator[Chunk]:
        """See :class:`Part`."""
        steps = max(1, size // STEP)
        for first in range(low // STEP, -(-high // STEP), steps):
            last = min(first + steps, len(self.marks) - 1)
            start = first * STEP
            chunk = self._between(first, last)
            yield chunk[max(0, low - start) : high - start]

    def _between(self, first: int, last: int) -> Chunk:
        """The rows from a mark to another."""
        start = first * STEP
        with self.path.open("rb") as file:
            file.seek(int(self.marks[first]))
            lines = file.read(int(self.marks[last] - self.marks[first]))
        passed = [column.name for column in self.ids]
        frame = csv_frame(self.path, io.BytesIO(lines), self.names, passed, header=False)
        expected = min(last * STEP, self.rows) - start
        if len(frame) != expected:
            raise InputError(
                f"{self.path}: rows {start} to {start + expected} are {len(frame)} for pandas; there must be no "
                "lines of blanks, quotes within a cell, or line ends without a newline"
            )
        ids = {name: texts([value if isinstance(value, str) else "" for value in frame[name]]) for name in passed}
        bad: dict[int, str] = {}
        columns = {name: _numbers(name, frame[name].to_numpy(), bad) for name in self.names if name not in ids}
        return Chunk(make_table(self.path, columns, {}, self.names).rows.astype(np.float64, copy=False), ids, bad)


def _numbers(name: str, values: Values, bad: dict[int, str]) -> Values:
    """A column's numbers; cells that hold none are NaN, and added to ``bad``."""
    if values.dtype.kind in "fiu":
        return values
    import pandas as pd

    values = values.astype(str).astype(object) if values.dtype.kind == "b" else values
    found = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    missing = pd.isna(values)
    for row in np.flatnonzero(np.isnan(found) & ~missing):
        bad.setdefault(int(row), f"column {name!r} does not hold a number{example(values[row : row + 1])}")
    return np.asarray(found)


def open_csv(path: Path, root: Path, id_columns: Sequence[str], advance: Advance, *, header: bool) -> CsvPart:
    """The rows of a CSV file; ``advance`` is told of its bytes as they are read.

    Raises:
        InputError: not a CSV file, no such id column, or a doubtful header.
        UnsupportedError: pandas is not installed.
    """
    check_regular(path)
    file = DataFile.of(path, root)
    names = csv_names(path, id_columns, header=header)
    if len(names) == len(id_columns):
        raise InputError(f"{path}: holds no columns of numbers")
    rows, marks = _indexed(path, advance, header=header)
    return CsvPart(file, tuple(names), tuple(IdColumn(name, TEXT) for name in id_columns), rows, marks)


def _indexed(path: Path, advance: Advance, *, header: bool) -> tuple[int, Values]:
    """How many rows a CSV file has, and its marks. A newline within quotes ends no row; empty lines are none."""
    marks: list[int] = []
    rows = -int(header)
    begun, at, quotes = 0, 0, 0  # where the line at hand begins, bytes read, quotes so far
    before = b"\n"
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            padded = np.frombuffer(before + data, np.uint8)
            found, before = padded[1:], data[-1:]
            ends = np.flatnonzero(found == NEWLINE)
            if QUOTE in data:
                counts = quotes + np.cumsum(found == QUOTE)
                ends = ends[counts[ends] % 2 == 0]
                quotes = int(counts[-1])
            elif quotes % 2:
                ends = ends[:0]
            starts = np.concatenate([[begun], at + ends[:-1] + 1])[: len(ends)]
            sizes = at + ends - starts
            lone_return = (sizes == 1) & (padded[ends] == RETURN)
            starts = starts[(sizes > 0) & ~lone_return]
            marks += [int(start) for start in starts[-rows % STEP :: STEP]]
            rows += len(starts)
            begun = at + int(ends[-1]) + 1 if len(ends) else begun
            at += len(data)
            advance(len(data))
    if at > begun and not _blank(path, begun):
        if rows >= 0 and rows % STEP == 0:
            marks.append(begun)
        rows += 1
    return max(0, rows), np.array([*marks, at], np.int64)


def _blank(path: Path, start: int) -> bool:
    """Whether nothing but a line's end is left of a file."""
    with path.open("rb") as file:
        file.seek(start)
        return not file.read(2).strip(b"\r\n")
