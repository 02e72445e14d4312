"""Zarr 3: the job's folder is a group, with an array of all rows for ``index`` and for every column.

A shard is one chunk of each array. Chunks are not compressed, so that a chunk's file is its rows' bytes and can be
written as they come: zarr-python, which writes all that goes with the arrays and reads them, takes whole chunks only.
As the format asks for, the last chunk is filled up with zeros; the arrays' length says where its rows end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastvae.bulk.disk import NewFile, Output
from fastvae.bulk.job import Job
from fastvae.bulk.shards._format import ShardWriter, check_numbers
from fastvae.bulk.table import Block, Column, Rows
from fastvae.errors import InputError
from fastvae.files import needs

INDEX = Column("index", "int64", ())
ZEROS = bytes(2**20)


class _ZarrWriter:
    def __init__(self, job: Job, files: Sequence[NewFile]) -> None:
        self._rows, self._columns, self._files = _chunk_rows(job), _columns(job), files

    def write(self, block: Block) -> None:
        index = np.arange(block.start, block.start + len(block), dtype="<i8")
        self._files[0].write(index.data)
        for column, file in zip(self._columns[1:], self._files[1:], strict=True):
            file.write(block.column(column).data)

    def finish(self) -> None:
        for column, file in zip(self._columns, self._files, strict=True):
            while missing := self._rows * column.bytes - file.size:
                file.write(ZEROS[: min(missing, len(ZEROS))])


class Zarr:
    """A group of arrays, a chunk of each for every shard."""

    def check(self, columns: Sequence[Column]) -> None:
        """See :class:`ShardFormat`."""
        check_numbers("zarr", columns)
        for column in columns:
            if not column.name.isidentifier():
                raise InputError(f"format: 'zarr' needs columns whose names are words, not {column.name!r}")
        with needs("zarr", ".zarr shards", "bulk"):
            import zarr  # noqa: F401

    def names(self, job: Job, shard: int) -> tuple[str, ...]:
        """See :class:`ShardFormat`."""
        return tuple(
            "/".join((column.name, ".".join(["c", str(shard), *("0" for _ in column.shape)])))
            for column in _columns(job)
        )

    def common(self, job: Job) -> Mapping[str, bytes]:
        """See :class:`ShardFormat`: what zarr-python writes of a group and its arrays."""
        import zarr

        store: dict[str, Any] = {}
        group = zarr.create_group(zarr.storage.MemoryStore(store), attributes={"fastvae": {"job": job.id}})
        for column in _columns(job):
            group.create_array(
                column.name,
                shape=(job.n, *column.shape),
                chunks=(_chunk_rows(job), *column.shape),
                dtype=column.dtype,
                filters=None,
                compressors=None,
                fill_value=0,
                chunk_key_encoding={"name": "default", "separator": "."},
            )
        return {name: buffer.to_bytes() for name, buffer in sorted(store.items())}

    @contextlib.contextmanager
    def writer(self, job: Job, shard: int, files: Sequence[Output]) -> Iterator[ShardWriter]:
        """See :class:`ShardFormat`."""
        yield _ZarrWriter(job, [file for file in files if isinstance(file, NewFile)])

    def read(self, job: Job, shard: int, folder: Path, places: Sequence[int]) -> tuple[Rows, Mapping[str, Rows]]:
        """See :class:`ShardFormat`; a chunk is read as a whole."""
        low, high = job.bounds(shard)
        group = _opened(job, folder)
        found = {column.name: np.asarray(group[column.name][low:high])[list(places)] for column in _columns(job)}
        return found.pop("index"), found

    def count(self, job: Job, shard: int, folder: Path) -> int:
        """See :class:`ShardFormat`."""
        low, high = job.bounds(shard)
        _opened(job, folder)
        sizes = [(folder / name).stat().st_size for name in self.names(job, shard)]
        held = min(size // column.bytes for size, column in zip(sizes, _columns(job), strict=True))
        return high - low if held == _chunk_rows(job) else held


def _columns(job: Job) -> tuple[Column, ...]:
    """The arrays of a job."""
    return INDEX, *job.columns


def _chunk_rows(job: Job) -> int:
    """Rows of a chunk; a job of one shard need not fill more than it has."""
    return max(1, min(job.shard_size, job.n))


def _opened(job: Job, folder: Path) -> Any:
    """The group; ValueError if it is not the job's."""
    import zarr

    try:
        group = zarr.open_group(folder, mode="r", zarr_format=3)
        for column in _columns(job):
            array: Any = group[column.name]
            shape, chunks = (job.n, *column.shape), (_chunk_rows(job), *column.shape)
            if (array.shape, array.chunks, array.dtype.name) != (shape, chunks, column.dtype):
                raise ValueError(f"{column.name}/zarr.json does not belong to the job")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no Zarr group of the job: {error}") from error
    return group
