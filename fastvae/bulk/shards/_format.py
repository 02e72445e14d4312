"""What a format of shards is."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from fastvae.bulk.disk import Output
from fastvae.bulk.job import Job
from fastvae.bulk.table import Block, Column, Rows
from fastvae.errors import InputError

NUMBERS: Final = ("float64", "float32", "float16", "int64", "uint8")


class ShardWriter(Protocol):
    """A shard being written."""

    def write(self, block: Block) -> None:
        """Append rows."""

    def finish(self) -> None:
        """Write what is still missing."""


class ShardFormat(Protocol):
    """A kind of file for shards."""

    def check(self, columns: Sequence[Column]) -> None:
        """Refuse what cannot be written.

        Raises:
            UnsupportedError: a package that it needs is not installed.
            InputError: the format has no place for these columns.
        """

    def names(self, job: Job, shard: int) -> tuple[str, ...]:
        """Names of a shard's files in the job's folder, which follow from its number alone.

        One with a slash at its end is a folder of files.
        """

    def common(self, job: Job) -> Mapping[str, bytes]:
        """Names and bytes of files that go with all shards; they are there before any shard."""

    def writer(self, job: Job, shard: int, files: Sequence[Output]) -> contextlib.AbstractContextManager[ShardWriter]:
        """The shard, to be written to files of these names."""

    def read(self, job: Job, shard: int, folder: Path, places: Sequence[int]) -> tuple[Rows, Mapping[str, Rows]]:
        """Indices and columns of the rows at some places of a shard, ascending; OSError or ValueError if it is none."""

    def count(self, job: Job, shard: int, folder: Path) -> int:
        """Rows of a shard; OSError or ValueError if it is none."""


def key(job: Job, index: int) -> str:
    """A sample's name: its index, with zeros in front so that names sort as indices do."""
    return f"{index:0{max(9, len(str(job.n)))}d}"


def check_single(name: str, columns: Sequence[Column]) -> None:
    """Refuse several columns in a format that holds one.

    Raises:
        InputError: there are several.
    """
    if len(columns) != 1:
        names = ", ".join(column.name for column in columns)
        raise InputError(f"format: {name!r} holds one column, and these are {len(columns)} ({names}); use 'parquet'")


def check_numbers(name: str, columns: Sequence[Column]) -> None:
    """Refuse columns of anything but numbers.

    Raises:
        InputError: there is one.
    """
    for column in columns:
        if column.dtype not in NUMBERS:
            raise InputError(f"format: {name!r} holds numbers only, and {column} are none; use 'parquet'")
