"""WebDataset: a tar file for every shard; the members of a sample share its index as their name.

``000000042.npy`` of a job with one column, ``000000042.mean.npy`` of several; ``.png`` of bytes that are images.
Members have no times and no owner, so that the bytes follow from the rows.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastvae.bulk.disk import NewFile, Output
from fastvae.bulk.job import Job
from fastvae.bulk.shards._format import ShardWriter, check_numbers, key
from fastvae.bulk.shards._images import decoded, encoded, is_image
from fastvae.bulk.table import Block, Column, Rows
from fastvae.files import needs

# Bytes that are collected before they are written: a member alone can be very small.
CHUNK = 2**20


class _TarWriter:
    def __init__(self, job: Job, file: NewFile) -> None:
        self._job, self._file = job, file
        self._suffixes = _suffixes(job)
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(mode="w", fileobj=self._buffer, format=tarfile.USTAR_FORMAT)

    def write(self, block: Block) -> None:
        columns = [(column, block.column(column)) for column in self._job.columns]
        for place in range(len(block)):
            name = key(self._job, block.start + place)
            for (column, rows), suffix in zip(columns, self._suffixes, strict=True):
                data = _packed(column, rows[place])
                member = tarfile.TarInfo(name + suffix)
                member.size = len(data)
                self._tar.addfile(member, io.BytesIO(data))
            if self._buffer.tell() >= CHUNK:
                self._drain()

    def finish(self) -> None:
        self._tar.close()
        self._drain()

    def _drain(self) -> None:
        with self._buffer.getbuffer() as data:
            self._file.write(data)
        self._buffer.seek(0)
        self._buffer.truncate()


class WebDataset:
    """A tar file."""

    def check(self, columns: Sequence[Column]) -> None:
        """See :class:`ShardFormat`."""
        check_numbers("webdataset", columns)
        if any(map(is_image, columns)):
            with needs("pillow", "images in .tar shards", "bulk"):
                import PIL.Image  # noqa: F401

    def names(self, job: Job, shard: int) -> tuple[str, ...]:
        """See :class:`ShardFormat`."""
        return (f"{job.stem(shard)}.tar",)

    def common(self, job: Job) -> Mapping[str, bytes]:
        """See :class:`ShardFormat`."""
        return {}

    @contextlib.contextmanager
    def writer(self, job: Job, shard: int, files: Sequence[Output]) -> Iterator[ShardWriter]:
        """See :class:`ShardFormat`."""
        (file,) = files
        assert isinstance(file, NewFile)
        yield _TarWriter(job, file)

    def read(self, job: Job, shard: int, folder: Path, places: Sequence[int]) -> tuple[Rows, Mapping[str, Rows]]:
        """See :class:`ShardFormat`; the headers before the last place are read."""
        rows = {column.name: np.empty((len(places), *column.shape), column.dtype) for column in job.columns}
        indices = np.empty(len(places), np.int64)
        width, wanted = len(job.columns), {place: at for at, place in enumerate(places)}
        found = 0
        with _opened(job, shard, folder) as tar:
            for number, member in enumerate(tar):
                at = wanted.get(number // width)
                if at is None:
                    continue
                column, suffix = job.columns[number % width], _suffixes(job)[number % width]
                if not member.name.endswith(suffix) or not member.isreg():
                    raise ValueError(f"member {member.name!r:.80} is not a {suffix}")
                indices[at] = int(member.name.removesuffix(suffix))
                rows[column.name][at] = _unpacked(column, tar, member)
                found += 1
                if found == len(places) * width:
                    break
        if found < len(places) * width:
            raise ValueError("there are fewer rows")
        return indices, rows

    def count(self, job: Job, shard: int, folder: Path) -> int:
        """See :class:`ShardFormat`."""
        with _opened(job, shard, folder) as tar:
            return sum(1 for _ in tar) // len(job.columns)


def _suffixes(job: Job) -> list[str]:
    """What follows the key in the names of a sample's members, by column."""
    kinds = ["png" if is_image(column) else "npy" for column in job.columns]
    if len(kinds) == 1:
        return [f".{kind}" for kind in kinds]
    return [f".{column.name}.{kind}" for column, kind in zip(job.columns, kinds, strict=True)]


def _head(column: Column) -> bytes:
    """The first bytes of every ``.npy`` file of a column."""
    file = io.BytesIO()
    header = {"descr": np.dtype(column.dtype).str, "fortran_order": False, "shape": column.shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def _packed(column: Column, row: Any) -> bytes:
    """A member's bytes."""
    return encoded(row) if is_image(column) else _head(column) + row.tobytes()


def _unpacked(column: Column, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Rows:
    """The row in a member; ValueError or OSError if there is none."""
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if is_image(column):
        return decoded(data, column)
    head = _head(column)
    if not data.startswith(head) or len(data) != len(head) + column.bytes:
        raise ValueError(f"member {member.name!r:.80} holds no {column}")
    row: Rows = np.frombuffer(data, column.dtype, offset=len(head)).reshape(column.shape)
    return row


@contextlib.contextmanager
def _opened(job: Job, shard: int, folder: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(folder / f"{job.stem(shard)}.tar", "r:") as tar:
            yield tar
    except tarfile.TarError as error:
        raise ValueError(str(error)) from error
