"""CSV and Parquet files as sources of rows."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastvae.errors import InputError, UnsupportedError
from fastvae.files import ReadOptions, open_source
from fastvae.files._tables import read_csv, read_parquet


def _csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(text)
    return path


def test_csv_columns_ids_and_empty_cells(tmp_path: Path) -> None:
    path = _csv(tmp_path, "name,a,b\n007,1,0.1\nNA,2,\n")
    table = read_csv(path, ["name"])
    np.testing.assert_array_equal(table.rows, [[1, 0.1], [2, np.nan]])
    assert table.columns == ("a", "b")
    assert [dtype.kind for dtype in table.dtypes] == ["i", "f"]
    assert list(table.ids["name"]) == ["007", "NA"]
    assert table.order == ("name", "a", "b")


def test_csv_reads_every_float_exactly(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((200, 3)) * 10.0 ** np.arange(-8, -5)
    path = _csv(tmp_path, "a,b,c\n" + "\n".join(",".join(map(repr, row)) for row in values.tolist()))
    np.testing.assert_array_equal(read_csv(path).rows, values)


def test_csv_without_rows(tmp_path: Path) -> None:
    assert read_csv(_csv(tmp_path, "a,b\n")).rows.shape == (0, 2)


def test_csv_header_or_not(tmp_path: Path) -> None:
    path = _csv(tmp_path, "0.5,1\n2,3\n")
    with pytest.raises(InputError, match="--no-header"):
        read_csv(path)
    table = read_csv(path, header=False)
    np.testing.assert_array_equal(table.rows, [[0.5, 1], [2, 3]])
    assert table.columns == ("x_0", "x_1")
    assert read_csv(_csv(tmp_path, "0,1\n2,3\n")).columns == ("0", "1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,x\n", r"column 'b' does not hold numbers \(row 0: 'x'\)"),
        ("a,b\n1,True\n", "column 'b' does not hold numbers"),
        ("a,a\n1,2\n", "column 'a' appears more than once"),
        ("a,b\n1,2\n1,2,3\n", "expected a CSV table"),
        ("a,b\n1,2,3\n4,5,6\n", "expected a CSV table"),
        ("", "expected a CSV table"),
        (f"a\n{2**60}\n", r"integers beyond 2\*\*53"),
    ],
)
def test_csv_refuses(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_csv(_csv(tmp_path, text))
    assert "t.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_csv_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(InputError, match="expected a CSV table"):
        read_csv(tmp_path / "t.csv")


def test_unknown_id_column(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no column 'c' \(--id-column\), only 'a', 'b'"):
        read_csv(_csv(tmp_path, "a,b\n1,2\n"), ["c"])


def test_only_ids_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no columns of numbers"):
        read_csv(_csv(tmp_path, "a\n1\n"), ["a"])


def test_parquet_columns_ids_and_nulls(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.float32([0.1, 2]), "name": ["x", None], "b": pd.array([None, 3], dtype="Int64")})
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_parquet(tmp_path / "t.parquet", ["name"])
    np.testing.assert_array_equal(table.rows, [[np.float32(0.1), np.nan], [2, 3]])
    assert table.rows.dtype == np.float64
    assert list(table.ids["name"]) == ["x", None]
    assert table.order == ("a", "name", "b")


def test_parquet_of_float32_stays_float32(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((5, 3), np.float32)
    pd.DataFrame(values, columns=["a", "b", "c"]).to_parquet(tmp_path / "t.parquet")
    table = read_parquet(tmp_path / "t.parquet")
    assert table.rows.dtype == np.float32
    np.testing.assert_array_equal(table.rows, values)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 2), pa.large_list(pa.float32())])
def test_parquet_list_column(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"v": pa.array([[1, 2], [3, None], [5, 6]], kind)}), tmp_path / "t.parquet")
    table = read_parquet(tmp_path / "t.parquet")
    np.testing.assert_array_equal(table.rows, [[1, 2], [3, np.nan], [5, 6]])
    assert table.columns == ("v_0", "v_1")


@pytest.mark.parametrize("rows", [[[1], [2, 3]], [[1, 2], None]])
def test_parquet_lists_must_have_one_length(tmp_path: Path, rows: list[list[int] | None]) -> None:
    pq.write_table(pa.table({"v": rows}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="must all have one length"):
        read_parquet(tmp_path / "t.parquet")


def test_parquet_refuses_text_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1.0], "b": ["x"]}), path)
    with pytest.raises(InputError, match="column 'b' holds string"):
        read_parquet(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="expected a Parquet table"):
        read_parquet(path)


def test_parquet_refuses_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": np.zeros(10_000_000, np.float32)}), path)
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match="would unpack to"):
        read_parquet(path)


def test_parquet_without_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.float32()), "b": pa.array([], pa.float64())}), tmp_path / "t.parquet")
    assert read_parquet(tmp_path / "t.parquet").rows.shape == (0, 2)


def test_scale_divides_tables(tmp_path: Path) -> None:
    source = open_source(_csv(tmp_path, "a,b\n255,51\n"), ReadOptions(scale=255))
    np.testing.assert_array_equal(source.block(0, 1), [[1.0, 0.2]])


@pytest.mark.parametrize(("name", "package"), [("t.csv", "pandas"), ("t.parquet", "pyarrow")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedError, match=rf"{package}: pip install .fastvae-engine\[cli\]"):
        open_source(tmp_path / name)
