"""CSV and Parquet files: columns of numbers, empty cells as NaN, and columns that are only passed through."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fastvae.errors import InputError
from fastvae.files._common import Values, check_inflation, check_regular, needs, one_line

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_PARQUET_RATIO = 1000
EXACT_INTEGER = 2**53


# Cells that count as missing.
EMPTY = ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None"]


@dataclass(frozen=True)
class Table:
    """A table in memory.

    ``rows`` is (rows, columns), float32 if every column fits, else float64; ``columns`` and ``dtypes`` are the
    columns' names and own types; ``ids`` holds the columns to pass through; ``order`` all names as in the file.
    """

    rows: Values
    columns: tuple[str, ...]
    dtypes: tuple[np.dtype[Any], ...]
    ids: Mapping[str, Values]
    order: tuple[str, ...]


def read_csv(path: Path, id_columns: Sequence[str] = (), *, header: bool = True) -> Table:
    """The table in a CSV file, whose first line names the columns if ``header``.

    Raises:
        InputError: not a CSV file, a column that does not hold numbers, or a missing or doubtful header.
        UnsupportedError: pandas is not installed.
    """
    check_regular(path)
    names = csv_names(path, id_columns, header=header)
    frame = csv_frame(path, path, names, id_columns, header=header)
    ids = {name: frame[name].to_numpy(dtype=object) for name in id_columns}
    columns = {name: frame[name].to_numpy() for name in names if name not in ids}
    if not len(frame):
        columns = {name: np.empty(0) for name in columns}
    return make_table(path, columns, ids, names)


def csv_names(path: Path, id_columns: Sequence[str], *, header: bool) -> list[str]:
    """The names of a CSV file's columns; errors as :func:`read_csv`."""
    with needs("pandas", ".csv files"):
        import pandas as pd
    with _csv_errors(path):
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
    names = [str(name) for name in first.iloc[0]] if header else [f"x_{i}" for i in range(first.shape[1])]
    if header:
        check_names(path, names)
    check_ids(path, names, id_columns)
    return names


def csv_frame(
    path: Path, lines: Path | IO[bytes], names: Sequence[str], id_columns: Sequence[str], *, header: bool
) -> pd.DataFrame:
    """The ``lines`` of a CSV file, ids as text; errors as :func:`read_csv`."""
    import pandas as pd

    # Before 3.1 pandas reads some floats a last bit off unless told not to; since, telling it is deprecated.
    exact: dict[str, Any] = {} if _version(pd.__version__) >= (3, 1) else {"float_precision": "round_trip"}
    with _csv_errors(path):
        frame: pd.DataFrame = pd.read_csv(
            lines,
            header=0 if header else None,
            names=list(names),
            index_col=False,
            keep_default_na=False,
            na_values={name: EMPTY for name in names if name not in id_columns},
            dtype=dict.fromkeys(id_columns, str),
            **exact,
        )
    return frame


@contextlib.contextmanager
def _csv_errors(path: Path) -> Iterator[None]:
    """Pandas' errors as InputErrors; its warning that lines longer than the header lose their end is one."""
    import pandas as pd

    errors = (ValueError, OSError, OverflowError, pd.errors.ParserWarning)
    with as_input_error(path, errors, "a CSV table"), warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        yield


def read_parquet(path: Path, id_columns: Sequence[str] = ()) -> Table:
    """The table in a Parquet file; one column of lists, all of one length, counts as that many columns.

    Raises:
        InputError: not a Parquet file, a column that does not hold numbers, or far more rows than its size justifies.
        UnsupportedError: pyarrow is not installed.
    """
    with needs("pyarrow", ".parquet files"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    size = check_regular(path)
    with as_input_error(path, (pa.ArrowException, OSError), "a Parquet table"):
        file = pq.ParquetFile(path)
        check_inflation(str(path), 8 * _cells(file.metadata), size, MAX_PARQUET_RATIO)
        names = file.schema_arrow.names
        check_names(path, names, numbers=True)
        check_ids(path, names, id_columns)
        table = file.read()
        ids = {name: pass_through(table[name]) for name in id_columns}
        rest = [name for name in names if name not in ids]
        if len(rest) == 1 and is_list(table.schema.field(rest[0]).type):
            columns = _list_columns(path, rest[0], table[rest[0]].combine_chunks())
        else:
            columns = {name: column_numbers(path, name, table[name]) for name in rest}
    return make_table(path, columns, ids, names)


@contextlib.contextmanager
def as_input_error(path: Path, errors: tuple[type[BaseException], ...], what: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except errors as error:
        raise InputError(f"{path}: expected {what}: {one_line(error)}") from error


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def check_names(path: Path, names: Sequence[str], *, numbers: bool = False) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not numbers and list(names) != [str(i) for i in range(len(names))] and all(map(_is_number, names)):
        raise InputError(f"{path}: its first line holds only numbers; if it is data, pass --no-header")
    if repeated:
        raise InputError(f"{path}: column {repeated[0]!r} appears more than once")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_ids(path: Path, names: Sequence[str], id_columns: Sequence[str]) -> None:
    for name in id_columns:
        if name not in names:
            shown = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
            raise InputError(f"{path}: has no column {name!r} (--id-column), only {shown}")


def is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _list_columns(path: Path, name: str, column: pa.Array) -> dict[str, Values]:
    """The columns of a list column; pyarrow's own lengths decide, so nothing is padded."""
    import pyarrow.compute as pc

    lengths = set(pc.list_value_length(column).to_pylist())
    if len(lengths) > 1 or None in lengths:
        raise InputError(f"{path}: the lists in column {name!r} must all have one length")
    size = lengths.pop() if lengths else getattr(column.type, "list_size", 0)
    rows = column_numbers(path, name, column.flatten()).reshape(-1, size) if size else np.empty((len(column), 0))
    return {f"{name}_{i}": rows[:, i] for i in range(size)}


def column_numbers(path: Path, name: str, column: pa.Array) -> Values:
    import pyarrow as pa

    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
        raise InputError(f"{path}: column {name!r} holds {column.type}, not numbers; pass it as --id-column or drop it")
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    kind = np.dtype(column.type.to_pandas_dtype())
    values: Values = column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
    return values if column.null_count else values.astype(kind, copy=False)


def _cells(metadata: pq.FileMetaData) -> int:
    """Values in all columns, elements of lists counted one by one."""
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    return sum(group.column(j).num_values for group in groups for j in range(group.num_columns))


def pass_through(column: pa.ChunkedArray) -> Values:
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)):
        column = column.cast(pa.string())
    values: Values = column.to_numpy()
    return values


def make_table(path: Path, columns: Mapping[str, Values], ids: Mapping[str, Values], order: Sequence[str]) -> Table:
    for name, values in columns.items():
        if values.dtype.kind not in "fiu":
            raise InputError(
                f"{path}: column {name!r} does not hold numbers{example(values)}; pass it as --id-column or drop it"
            )
        if values.dtype.kind in "iu" and len(values) and _largest(values) > EXACT_INTEGER:
            raise InputError(f"{path}: column {name!r} holds integers beyond 2**53, which no float can hold")
    if not columns:
        raise InputError(f"{path}: holds no columns of numbers")
    dtypes = tuple(values.dtype for values in columns.values())
    wide = np.float32 if all(np.can_cast(dtype, np.float32) for dtype in dtypes) else np.float64
    rows = np.empty((len(next(iter(columns.values()))), len(columns)), wide)
    for index, values in enumerate(columns.values()):
        rows[:, index] = values
    return Table(rows, tuple(columns), dtypes, ids, tuple(order))


def _largest(values: Values) -> int:
    return max(abs(int(values.min())), abs(int(values.max())))


def example(values: Values) -> str:
    for row, value in enumerate(values):
        if not isinstance(value, int | float) and not _is_number(str(value)):
            return f" (row {row}: {str(value)[:40]!r})"
    return ""
