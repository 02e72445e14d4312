"""The files of shards: one class per format, which writes rows as they come and reads some of them back.

A Parquet file has the columns ``index`` (int64) and ``sample``, and a row group for every block. ``sample`` is a list
of fixed size for floats, and the row's bytes for uint8: as a list, Parquet would hold each of them in 32 bits. An
``.npy`` file is one array; row ``r`` of shard ``k`` has index ``k * shard_size + r``.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastvae.bulk.disk import NewFile
from fastvae.bulk.job import SUFFIXES, Job
from fastvae.files import needs

Rows = NDArray[Any]


class ShardWriter(Protocol):
    """A shard being written."""

    def write(self, start: int, rows: Rows) -> None:
        """Append rows, of which the first has index ``start``."""

    def finish(self) -> None:
        """Write what is still missing."""


class ShardFormat(Protocol):
    """A kind of file for shards."""

    def check(self) -> None:
        """Raise UnsupportedError if a package that it needs is not installed."""

    def writer(self, job: Job, shard: int, file: NewFile) -> contextlib.AbstractContextManager[ShardWriter]:
        """The shard, to be written to ``file``."""

    def read(self, job: Job, path: Path, places: Sequence[int]) -> tuple[Rows, Rows]:
        """Indices and rows at some places of a shard's file, ascending; OSError or ValueError if it is none."""

    def count(self, path: Path) -> int:
        """Rows of a shard's file; OSError or ValueError if it is none."""


class _NpyWriter:
    def __init__(self, job: Job, shard: int, file: NewFile) -> None:
        low, high = job.bounds(shard)
        header = {"descr": np.dtype(job.dtype).str, "fortran_order": False, "shape": (high - low, *job.row_shape)}
        np.lib.format.write_array_header_1_0(file, header)
        self._file = file

    def write(self, start: int, rows: Rows) -> None:
        self._file.write(np.ascontiguousarray(rows).data)

    def finish(self) -> None:
        """Nothing follows the rows."""


class Npy:
    """One array."""

    def check(self) -> None:
        """NumPy is always there."""

    @contextlib.contextmanager
    def writer(self, job: Job, shard: int, file: NewFile) -> Iterator[ShardWriter]:
        """See :class:`ShardFormat`."""
        yield _NpyWriter(job, shard, file)

    def read(self, job: Job, path: Path, places: Sequence[int]) -> tuple[Rows, Rows]:
        """See :class:`ShardFormat`; the indices follow from the file's name."""
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        start = job.bounds(_number(path))[0]
        return np.array(places, np.int64) + start, np.array(array[list(places)])

    def count(self, path: Path) -> int:
        """See :class:`ShardFormat`."""
        return len(np.load(path, mmap_mode="r", allow_pickle=False))


class _ParquetWriter:
    def __init__(self, job: Job, file: NewFile) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pa, self._job, self._width = pa, job, math.prod(job.row_shape)
        if job.dtype == "uint8":
            kind = pa.binary(self._width)
        else:
            value = pa.from_numpy_dtype(np.dtype(job.dtype))
            kind = pa.list_(pa.field("item", value, nullable=False), self._width)
        fields = [pa.field("index", pa.int64(), nullable=False), pa.field("sample", kind, nullable=False)]
        about = {"fastvae": json.dumps({"job": job.id, "shape": job.row_shape, "dtype": job.dtype})}
        self._schema = pa.schema(fields, metadata=about)
        # Noise does not compress, dictionaries and statistics of pixels say nothing.
        self.file = pq.ParquetWriter(
            file,
            self._schema,
            compression="none",
            use_dictionary=False,
            write_statistics=["index"],
        )

    def write(self, start: int, rows: Rows) -> None:
        pa = self._pa
        rows = np.ascontiguousarray(rows)
        kind = self._schema.field("sample").type
        if self._job.dtype == "uint8":
            samples = pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(rows)])
        else:
            samples = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=kind)
        index = pa.array(np.arange(start, start + len(rows), dtype=np.int64))
        table = pa.Table.from_arrays([index, samples], schema=self._schema)
        self.file.write_table(table, row_group_size=len(rows))

    def finish(self) -> None:
        self.file.close()


class Parquet:
    """A row group for every block."""

    def check(self) -> None:
        """See :class:`ShardFormat`."""
        with needs("pyarrow", ".parquet files"):
            import pyarrow.parquet  # noqa: F401

    @contextlib.contextmanager
    def writer(self, job: Job, shard: int, file: NewFile) -> Iterator[ShardWriter]:
        """See :class:`ShardFormat`."""
        writer = _ParquetWriter(job, file)
        try:
            yield writer
        except BaseException:
            with contextlib.suppress(Exception):  # the file is given up; pyarrow would write its end
                writer.file.close()
            raise

    def read(self, job: Job, path: Path, places: Sequence[int]) -> tuple[Rows, Rows]:
        """See :class:`ShardFormat`; only the row groups with these places are read."""
        import pyarrow.parquet as pq

        indices, rows = [np.empty(0, np.int64)], [np.empty((0, *job.row_shape), job.dtype)]
        with pq.ParquetFile(path) as file:
            low = 0
            for group in range(file.num_row_groups):
                high = low + file.metadata.row_group(group).num_rows
                wanted = [place - low for place in places if low <= place < high]
                if wanted:
                    table = file.read_row_group(group)
                    indices.append(table["index"].to_numpy()[wanted])
                    rows.append(self._samples(job, table["sample"].combine_chunks())[wanted])
                low = high
        return np.concatenate(indices), np.concatenate(rows)

    def count(self, path: Path) -> int:
        """See :class:`ShardFormat`."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            return int(file.metadata.num_rows)

    def _samples(self, job: Job, column: Any) -> Rows:
        width = math.prod(job.row_shape)
        if job.dtype == "uint8":
            flat = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, offset=column.offset * width)
        else:
            flat = column.flatten().to_numpy()
        rows: Rows = flat.reshape(len(column), *job.row_shape)
        return rows


FORMATS: dict[str, ShardFormat] = dict(zip(SUFFIXES, (Parquet(), Npy()), strict=True))


def _number(path: Path) -> int:
    """The shard whose file ``path`` is."""
    return int(path.stem.removeprefix("shard-"))
