"""What a format of shards is."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from fastvae.bulk.disk import NewFile
from fastvae.bulk.job import Job
from fastvae.bulk.table import Block, Column, Rows


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
        """Names of a shard's files in the job's folder, which follow from its number alone."""

    def writer(self, job: Job, shard: int, files: Sequence[NewFile]) -> contextlib.AbstractContextManager[ShardWriter]:
        """The shard, to be written to files of these names."""

    def read(self, job: Job, shard: int, folder: Path, places: Sequence[int]) -> tuple[Rows, Mapping[str, Rows]]:
        """Indices and columns of the rows at some places of a shard, ascending; OSError or ValueError if it is none."""

    def count(self, job: Job, shard: int, folder: Path) -> int:
        """Rows of a shard; OSError or ValueError if it is none."""
