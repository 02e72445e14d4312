"""Parquet files, read row group by row group and no faster than rows are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastvae.errors import InputError
from fastvae.files._common import Values, check_regular, needs
from fastvae.files._tables import as_input_error, check_ids, check_names, column_numbers, is_list, make_table
from fastvae.files.dataset._indexing import Advance
from fastvae.files.dataset._part import INTEGER, TEXT, Chunk, DataFile, IdColumn, files_at, texts

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Of a column chunk, at a time: without it a row group is read whole, however large it is.
BUFFER = 2**20


@dataclass(frozen=True)
class ParquetPart:
    """The columns ``names`` of a Parquet file; one of lists, of ``length`` numbers each, is a row by itself.

    ``starts`` are the first rows of its row groups, and their end. Values have ``dtype``, whatever a range holds.
    """

    file: DataFile
    names: tuple[str, ...]
    length: int
    ids: tuple[IdColumn, ...]
    dtype: str
    starts: tuple[int, ...]
    integers: bool = False

    @property
    def path(self) -> Path:
        """See :class:`Part`."""
        return self.file.path

    @property
    def rows(self) -> int:
        """See :class:`Part`."""
        return self.starts[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """See :class:`Part`."""
        return (self.length or len(self.names),)

    @property
    def files(self) -> tuple[DataFile, ...]:
        """See :class:`Part`."""
        return (self.file,)

    def files_of(self, low: int, high: int) -> Sequence[DataFile]:
        """See :class:`Part`."""
        return self.files

    def chunks(self, low: int, high: int, size: int) -> Iterator[Chunk]:
        """See :class:`Part`."""
        import pyarrow as pa

        first = int(np.searchsorted(self.starts, low, side="right")) - 1
        end = int(np.searchsorted(self.starts, high))
        columns = [*self.names, *(column.name for column in self.ids)]
        at = self.starts[first]
        with (
            as_input_error(self.path, (pa.ArrowException, OSError), "a Parquet table"),
            _file(self.path) as file,
        ):
            groups = list(range(first, end))
            for batch in file.iter_batches(size, row_groups=groups, columns=columns, use_threads=False):
                skip, stop = max(0, low - at), min(len(batch), high - at)
                if skip < stop:
                    yield self._chunk(batch.slice(skip, stop - skip), at + skip)
                at += len(batch)
                if at >= high:
                    return

    def _chunk(self, batch: pa.RecordBatch, start: int) -> Chunk:
        ids = {column.name: self._ids(column, batch.column(column.name), start) for column in self.ids}
        if self.length:
            values, bad = self._lists(batch.column(self.names[0]))
        else:
            columns = {name: column_numbers(self.path, name, batch.column(name)) for name in self.names}
            values, bad = make_table(self.path, columns, {}, self.names).rows, {}
        return Chunk(values.astype(self.dtype, copy=False), ids, bad)

    def _lists(self, column: pa.Array) -> tuple[Values, dict[int, str]]:
        """Lists as rows; those of another length are NaN."""
        import pyarrow as pa
        import pyarrow.compute as pc

        name = self.names[0]
        if pa.types.is_fixed_size_binary(column.type):
            start = column.offset * column.type.byte_width
            flat = np.frombuffer(column.buffers()[1], self.dtype, len(column) * self.length, offset=start)
            return flat.reshape(-1, self.length), {}
        lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
        odd = np.flatnonzero(lengths != self.length)
        if not len(odd):
            return column_numbers(self.path, name, column.flatten()).reshape(-1, self.length), {}
        values = np.full((len(column), self.length), np.nan)
        right = pc.equal(pc.list_value_length(column), self.length)
        values[lengths == self.length] = column_numbers(self.path, name, column.filter(right).flatten()).reshape(
            -1, self.length
        )
        bad = {int(row): f"column {name!r} holds {_count(lengths[row])}, not {self.length}" for row in odd}
        return values, bad

    def _ids(self, column: IdColumn, values: pa.Array, start: int) -> Values:
        import pyarrow as pa

        if column.kind == TEXT:
            return texts(["" if value is None else value for value in values.cast(pa.string()).to_pylist()])
        if values.null_count:
            row = start + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise InputError(f"{self.path}: column {column.name!r} of ids has no value in row {row} (the first is 0)")
        return np.asarray(values.to_numpy().astype(np.int64))


def _file(path: Path) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)


def _count(length: Any) -> str:
    return f"{length} numbers" if length >= 0 else "no list"


def open_parquet(path: Path, root: Path, id_columns: Sequence[str], advance: Advance) -> ParquetPart:
    """The rows of a Parquet file, of which the schema and the places of row groups are read.

    The column ``index`` of a bulk job's shards is no data. ``advance`` is told of the file's bytes.

    Raises:
        InputError: not a Parquet file, no such id column, or columns that do not hold numbers.
        UnsupportedError: pyarrow is not installed.
    """
    with needs("pyarrow", ".parquet files"):
        import pyarrow as pa
        import pyarrow.parquet
    check_regular(path)
    with (
        as_input_error(path, (pa.ArrowException, OSError, ValueError), "a Parquet table"),
        _file(path) as file,
    ):
        schema, metadata = file.schema_arrow, file.metadata
        check_names(path, schema.names, numbers=True)
        check_ids(path, schema.names, id_columns)
        about = json.loads((schema.metadata or {}).get(b"fastvae", b"null"))
        left_out = {*id_columns, *(["index"] if about is not None else [])}
        names = tuple(name for name in schema.names if name not in left_out)
        if not names:
            raise InputError(f"{path}: holds no columns of numbers")
        starts = np.cumsum([0, *(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))])
        kinds = [schema.field(name).type for name in names]
        length = _length(path, file, names[0]) if len(names) == 1 else 0
        binary = pa.types.is_fixed_size_binary(kinds[0]) and bool(length)
        stored = _stored(about, names[0]) if binary else ""
        if stored:
            length //= np.dtype(stored).itemsize
        dtype = stored or _dtype(path, names, [_value(kind) for kind in kinds] if length else kinds)
    ids = tuple(IdColumn(name, _id_kind(schema.field(name).type)) for name in id_columns)
    (file_at,) = files_at([path], root, advance)
    return ParquetPart(file_at, names, length, ids, dtype, tuple(map(int, starts)), stored == "uint8")


def _stored(about: Any, name: str) -> str:
    """What the bytes of a column are, as a bulk job says it; without one, uint8."""
    try:
        found = about["columns"][name]["dtype"]
    except (TypeError, KeyError):
        found = None
    return found if found in ("float16", "float32") else "uint8"


def _length(path: Path, file: Any, name: str) -> int:
    """Numbers in a list of a column, as its first row has them; 0 for a column of none."""
    import pyarrow as pa

    kind = file.schema_arrow.field(name).type
    if pa.types.is_fixed_size_binary(kind):
        return int(kind.byte_width)
    if not is_list(kind):
        return 0
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    for batch in file.iter_batches(1, columns=[name], use_threads=False):
        first = batch.column(name)[0].as_py()
        if not first:
            raise InputError(f"{path}: the first row of column {name!r} holds no numbers")
        return len(first)
    return 1


def _value(kind: Any) -> Any:
    return kind.value_type if is_list(kind) else kind


def _dtype(path: Path, names: Sequence[str], kinds: Sequence[Any]) -> str:
    """What the numbers of all columns fit in: float32 or float64."""
    import pyarrow as pa

    for name, kind in zip(names, kinds, strict=True):
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
            raise InputError(f"{path}: column {name!r} holds {kind}, not numbers; name it in id_columns or drop it")
    narrow = (not pa.types.is_null(kind) and np.can_cast(kind.to_pandas_dtype(), np.float32) for kind in kinds)
    return "float32" if all(narrow) else "float64"


def _id_kind(kind: Any) -> str:
    import pyarrow as pa

    return INTEGER if pa.types.is_integer(kind) and kind != pa.uint64() else TEXT
