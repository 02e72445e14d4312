"""Parquet files: ``index`` (int64) and the job's columns, a row group for every block.

A value of one number is a number, of several a list of fixed size, and text a string. As bytes, several numbers are the
row's memory instead: Parquet counts how long every list is, number by number.
uint8 are bytes in any case: as a list, Parquet would hold each of them in 32 bits.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastvae.bulk.disk import NewFile, Output
from fastvae.bulk.job import Job
from fastvae.bulk.shards._format import ShardWriter
from fastvae.bulk.table import TEXT, Block, Column, Rows
from fastvae.files import needs


class _ParquetWriter:
    def __init__(self, job: Job, file: NewFile, *, as_bytes: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pa, self._columns, self._as_bytes = pa, job.columns, as_bytes
        fields = [pa.field("index", pa.int64(), nullable=False)]
        fields += [pa.field(column.name, self._kind(column), nullable=False) for column in job.columns]
        values = {column.name: {"shape": column.shape, "dtype": column.dtype} for column in job.columns}
        about = {"fastvae": json.dumps({"job": job.id, "columns": values})}
        self._schema = pa.schema(fields, metadata=about)
        # Noise does not compress, dictionaries and statistics of pixels say nothing.
        self.file = pq.ParquetWriter(
            file,
            self._schema,
            compression="none",
            use_dictionary=False,
            write_statistics=["index"],
        )

    def write(self, block: Block) -> None:
        pa = self._pa
        index = self._numbers(np.arange(block.start, block.start + len(block), dtype=np.int64))
        arrays = [self._array(column, block.column(column)) for column in self._columns]
        table = pa.Table.from_arrays([index, *arrays], schema=self._schema)
        self.file.write_table(table, row_group_size=len(block))

    def finish(self) -> None:
        self.file.close()

    def _kind(self, column: Column) -> Any:
        """Arrow's type of a column."""
        pa = self._pa
        if column.dtype == TEXT:
            return pa.string()
        value = pa.from_numpy_dtype(np.dtype(column.dtype))
        if not column.shape:
            return value
        if _is_bytes(column, self._as_bytes):
            return pa.binary(column.bytes)
        return pa.list_(pa.field("item", value, nullable=False), math.prod(column.shape))

    def _array(self, column: Column, rows: Rows) -> Any:
        """A column of a block for Arrow."""
        pa, kind = self._pa, self._schema.field(column.name).type
        if column.dtype == TEXT:
            return pa.array(rows, type=kind)
        if not column.shape:
            return self._numbers(rows)
        if _is_bytes(column, self._as_bytes):
            return pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(rows)])
        return pa.FixedSizeListArray.from_arrays(self._numbers(rows.reshape(-1)), type=kind)

    def _numbers(self, values: Rows) -> Any:
        """Numbers for Arrow, where they are; ``pa.array`` would import pandas to ask whether they are a Series."""
        pa = self._pa
        memory = pa.py_buffer(np.ascontiguousarray(values))
        return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, memory])


class Parquet:
    """A row group for every block; several numbers of a row as a list or, ``as_bytes``, as memory."""

    def __init__(self, *, as_bytes: bool = False) -> None:
        self._as_bytes = as_bytes

    def check(self, columns: Sequence[Column]) -> None:
        """See :class:`ShardFormat`."""
        with needs("pyarrow", ".parquet files"):
            import pyarrow.parquet  # noqa: F401

    def names(self, job: Job, shard: int) -> tuple[str, ...]:
        """See :class:`ShardFormat`."""
        return (f"{job.stem(shard)}.parquet",)

    def common(self, job: Job) -> Mapping[str, bytes]:
        """See :class:`ShardFormat`."""
        return {}

    @contextlib.contextmanager
    def writer(self, job: Job, shard: int, files: Sequence[Output]) -> Iterator[ShardWriter]:
        """See :class:`ShardFormat`."""
        (file,) = files
        assert isinstance(file, NewFile)
        writer = _ParquetWriter(job, file, as_bytes=self._as_bytes)
        try:
            yield writer
        except BaseException:
            with contextlib.suppress(Exception):  # the file is given up; pyarrow would write its end
                writer.file.close()
            raise

    def read(self, job: Job, shard: int, folder: Path, places: Sequence[int]) -> tuple[Rows, Mapping[str, Rows]]:
        """See :class:`ShardFormat`; only the row groups with these places are read."""
        import pyarrow.parquet as pq

        indices = [np.empty(0, np.int64)]
        rows = {column.name: [np.empty((0, *column.shape), _dtype(column))] for column in job.columns}
        with pq.ParquetFile(folder / self.names(job, shard)[0]) as file:
            low = 0
            for group in range(file.num_row_groups):
                high = low + file.metadata.row_group(group).num_rows
                wanted = [place - low for place in places if low <= place < high]
                if wanted:
                    table = file.read_row_group(group)
                    indices.append(table["index"].to_numpy()[wanted])
                    for column in job.columns:
                        rows[column.name].append(self._values(column, table[column.name])[wanted])
                low = high
        return np.concatenate(indices), {name: np.concatenate(parts) for name, parts in rows.items()}

    def count(self, job: Job, shard: int, folder: Path) -> int:
        """See :class:`ShardFormat`."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(folder / self.names(job, shard)[0]) as file:
            return int(file.metadata.num_rows)

    def _values(self, column: Column, chunks: Any) -> Rows:
        """A column that Arrow has read."""
        array = chunks.combine_chunks()
        if column.dtype == TEXT:
            return np.array(array.to_pylist(), dtype=object)
        if _is_bytes(column, self._as_bytes):
            size, start = len(array) * math.prod(column.shape), array.offset * column.bytes
            flat = np.frombuffer(array.buffers()[1], column.dtype, size, offset=start)
        else:
            flat = (array.flatten() if column.shape else array).to_numpy()
        rows: Rows = flat.reshape(len(array), *column.shape)
        return rows


def _dtype(column: Column) -> str:
    return "object" if column.dtype == TEXT else column.dtype


def _is_bytes(column: Column, as_bytes: bool) -> bool:
    return bool(column.shape) and (as_bytes or column.dtype == "uint8")
