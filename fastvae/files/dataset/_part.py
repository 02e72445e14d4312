"""What a part of a data set is: a file, or a folder of images, whose rows can be read from any one on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastvae.errors import JobError
from fastvae.files._common import Values, check_regular
from fastvae.files.dataset._indexing import Advance

TEXT, INTEGER = "text", "int64"


@dataclass(frozen=True)
class IdColumn:
    """A column to pass through: its name, and ``text`` or ``int64``."""

    name: str
    kind: str


@dataclass(frozen=True)
class Chunk:
    """Some rows: ``values`` (rows, ...), floats or integers; an array of each id; what is wrong with rows, by place.

    Ids of kind ``text`` are arrays of objects. Rows with something wrong hold NaN where there is no number.
    """

    values: Values
    ids: Mapping[str, Values] = field(default_factory=dict)
    bad: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: slice) -> Chunk:
        low, high, _ = place.indices(len(self))
        bad = {row - low: reason for row, reason in self.bad.items() if low <= row < high}
        return Chunk(self.values[place], {name: values[place] for name, values in self.ids.items()}, bad)


@dataclass(frozen=True)
class DataFile:
    """A file that a data set reads, and what it looked like when it was opened.

    Args:
        root: the data set's.
        name: the file's path below it.
    """

    root: Path
    name: str
    bytes: int
    mtime_ns: int

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.root / self.name

    @staticmethod
    def of(path: Path, root: Path) -> DataFile:
        """The file at ``path``; InputError if there is none."""
        check_regular(path)
        status = path.stat()
        return DataFile(root, path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns)

    def check(self) -> None:
        """Refuse a file that is no longer what it was.

        Raises:
            JobError: it has another size or time of change, or is gone.
        """
        try:
            status = self.path.stat()
        except OSError as error:
            raise JobError(f"{self.path}: cannot be read any more: {error.strerror or error}") from error
        if (status.st_size, status.st_mtime_ns) != (self.bytes, self.mtime_ns):
            raise JobError(f"{self.path}: changed while the job was at work")


def files_at(paths: Iterable[Path], root: Path, advance: Advance) -> tuple[DataFile, ...]:
    """The files at ``paths``, of each of which ``advance`` is told; InputError if there is none."""
    found: list[DataFile] = []
    for path in paths:
        found.append(DataFile.of(path, root))
        advance(found[-1].bytes)
    return tuple(found)


class Part(Protocol):
    """Rows of one file or folder; everything needed to read them, and none of them, so that it can be pickled."""

    @property
    def path(self) -> Path:
        """The file or folder."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row."""

    @property
    def ids(self) -> tuple[IdColumn, ...]:
        """The columns to pass through."""

    @property
    def files(self) -> tuple[DataFile, ...]:
        """What it reads, in a fixed order."""

    @property
    def integers(self) -> bool:
        """Whether it holds an array of integers or booleans, which need a scale."""

    def files_of(self, low: int, high: int) -> Sequence[DataFile]:
        """The files in which rows low to high are."""

    def chunks(self, low: int, high: int, size: int) -> Iterator[Chunk]:
        """Rows low to high in their order, at most ``size`` at a time."""


def batched(chunks: Iterable[Chunk], size: int) -> Iterator[Chunk]:
    """The same rows, ``size`` at a time; the last may be fewer."""
    held: list[Chunk] = []
    count = 0
    for chunk in chunks:
        rest = chunk
        while len(rest):
            held.append(rest[: size - count])
            count += len(held[-1])
            rest = rest[len(held[-1]) :]
            if count == size:
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


def _joined(chunks: Sequence[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    bad: dict[int, str] = {}
    done = 0
    for chunk in chunks:
        bad |= {done + row: reason for row, reason in chunk.bad.items()}
        done += len(chunk)
    ids = {name: np.concatenate([chunk.ids[name] for chunk in chunks]) for name in chunks[0].ids}
    return Chunk(np.concatenate([chunk.values for chunk in chunks]), ids, bad)


def texts(values: Sequence[Any]) -> Values:
    """Strings as an array of objects."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
