"""A folder of parts: results of many rows as files of so many rows each, which a killed run can be continued from.

A part appears whole or not at all, and says what it is: its rows' ids and the job they were made by. So the parts alone
say what is done. One process writes to a folder at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fastvae.atomic import atomic_write
from fastvae.errors import OutputError
from fastvae.files._common import Values, one_line

NAME = re.compile(r"part-(\d+)-of-(\d+)\.npz")
TEMPORARY = re.compile(r"\.part-\d+-of-\d+\.npz\..*\.part")
_BAD = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile)


class Parts:
    """The parts of one job over rows with these ``ids``, ``size`` rows in each but the last.

    ``with Parts(...) as parts`` holds the folder, which is made if it is not there; ``parts.missing()`` are those still
    to be written. Every file has the arrays it was given, its rows' ``ids``, and the ``job`` as JSON.

    Args:
        ids: of each row, integers or text.
        job: what else decides the results, as JSON has it.
        force: begin anew, without the parts that are there.

    Raises:
        OutputError: the folder cannot be written to, is in use, or holds parts of another job.
    """

    def __init__(self, folder: Path, ids: Values, job: Mapping[str, object], size: int, *, force: bool = False) -> None:
        self._folder, self._size, self._force = folder, size, force
        self._ids = ids
        self._job = json.dumps({**job, "rows_per_part": size}, sort_keys=True)
        self.count = -(-len(self._ids) // size)
        self._held: int | None = None
        self._done: set[int] = set()

    def __enter__(self) -> Parts:
        try:
            self._folder.mkdir(exist_ok=True)
            self._held = os.open(self._folder, os.O_RDONLY)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in os.listdir(self._folder):  # of a run that was killed: nobody else is writing
                if TEMPORARY.fullmatch(name) or (self._force and NAME.fullmatch(name)):
                    (self._folder / name).unlink()
        except BlockingIOError as error:
            self._let_go()
            raise OutputError(f"--out: {self._folder} is being written to by another process") from error
        except OSError as error:
            self._let_go()
            raise OutputError(f"--out: cannot write to {self._folder}: {error.strerror or error}") from error
        try:
            self._done = set(self._found())
        except OutputError:
            self._let_go()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def range(self, index: int) -> tuple[int, int]:
        """The rows of a part: low to high."""
        return index * self._size, min((index + 1) * self._size, len(self._ids))

    def missing(self) -> list[int]:
        """The parts still to be written."""
        return [index for index in range(self.count) if index not in self._done]

    def write(self, index: int, arrays: Mapping[str, Values]) -> None:
        """Write a part: ``arrays`` by name, a row of each for every row of it.

        Raises:
            OutputError: it cannot be written; nothing is left under its name.
        """
        with atomic_write(self._path(index)) as file:
            contents: dict[str, Any] = {**arrays, "ids": self._ids_of(index), "job": np.array(self._job)}
            np.savez(file, **contents)
        self._done.add(index)

    def _ids_of(self, index: int) -> Values:
        """The ids of a part, none of them a Python object."""
        low, high = self.range(index)
        ids = self._ids[low:high]
        return ids.astype(str) if ids.dtype == object else ids

    def _path(self, index: int) -> Path:
        return self._folder / f"part-{index:05}-of-{self.count:05}.npz"

    def _found(self) -> Iterator[int]:
        """The parts that are there, each one of this job."""
        for path in sorted(self._folder.iterdir()):
            match = NAME.fullmatch(path.name)
            if match is None:
                continue
            index, count = int(match[1]), int(match[2])
            if count != self.count or index >= count or path != self._path(index):
                raise self._another(path, f"expected {self.count} parts of {self._size:,} rows")
            self._check(path, index)
            yield index

    def _check(self, path: Path, index: int) -> None:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                theirs, ids = dict(json.loads(str(arrays["job"]))), arrays["ids"]
        except _BAD as error:
            raise OutputError(f"--out: {path} cannot be read: {one_line(error)}; remove it to make it again") from error
        ours = json.loads(self._job)
        for name in sorted({*theirs, *ours}):
            was, now = theirs.get(name), ours.get(name)
            if was != now:
                raise self._another(path, f"{name} was {was!r:.80}, is {now!r:.80}")
        if not np.array_equal(ids, self._ids_of(index)):
            raise self._another(path, "its rows are not those of the data, which may have changed")

    def _another(self, path: Path, why: str) -> OutputError:
        return OutputError(
            f"--out: {path} is of another job: {why}; write to another folder, or pass --force to begin anew"
        )
