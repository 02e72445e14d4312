"""``.npy`` files: an array of a job with one column; row ``r`` of shard ``k`` has index ``k * shard_size + r``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fastvae.bulk.disk import NewFile, Output
from fastvae.bulk.job import Job
from fastvae.bulk.shards._format import ShardWriter, check_numbers, check_single
from fastvae.bulk.table import Block, Column, Rows


class _NpyWriter:
    def __init__(self, job: Job, shard: int, file: NewFile) -> None:
        low, high = job.bounds(shard)
        (self._column,) = job.columns
        shape = (high - low, *self._column.shape)
        header = {"descr": np.dtype(self._column.dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        self._file = file

    def write(self, block: Block) -> None:
        self._file.write(block.column(self._column).data)

    def finish(self) -> None:
        """Nothing follows the rows."""


class Npy:
    """One array."""

    def check(self, columns: Sequence[Column]) -> None:
        """See :class:`ShardFormat`."""
        check_single("npy", columns)
        check_numbers("npy", columns)

    def names(self, job: Job, shard: int) -> tuple[str, ...]:
        """See :class:`ShardFormat`."""
        return (f"{job.stem(shard)}.npy",)

    def common(self, job: Job) -> Mapping[str, bytes]:
        """See :class:`ShardFormat`."""
        return {}

    @contextlib.contextmanager
    def writer(self, job: Job, shard: int, files: Sequence[Output]) -> Iterator[ShardWriter]:
        """See :class:`ShardFormat`."""
        (file,) = files
        assert isinstance(file, NewFile)
        yield _NpyWriter(job, shard, file)

    def read(self, job: Job, shard: int, folder: Path, places: Sequence[int]) -> tuple[Rows, Mapping[str, Rows]]:
        """See :class:`ShardFormat`; the indices follow from the file's name."""
        rows = np.array(self._array(job, shard, folder)[list(places)])
        return np.array(places, np.int64) + job.bounds(shard)[0], {job.columns[0].name: rows}

    def count(self, job: Job, shard: int, folder: Path) -> int:
        """See :class:`ShardFormat`."""
        return len(self._array(job, shard, folder))

    def _array(self, job: Job, shard: int, folder: Path) -> Rows:
        array: Rows = np.load(folder / self.names(job, shard)[0], mmap_mode="r", allow_pickle=False)
        return array
