"""Every kind of output: what comes back when it is read, and that nothing half-written stays."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from fastvae.errors import InputError, OutputError, UnsupportedError
from fastvae.files import OUTPUT_SUFFIXES, Field, Sink, check_target, open_sink, open_source

ROWS = np.random.default_rng(0).standard_normal((10, 2, 3)).astype(np.float32)
COLUMNS = tuple(f"x_{i}" for i in range(6))


def _write(path: Path, batches: Sequence[int], fields: Sequence[Field] | None = None) -> Path:
    with open_sink(path, sum(batches), fields or [Field("x", COLUMNS)]) as sink:
        low = 0
        for size in batches:
            rows = ROWS[low : low + size]
            sink.write({"x": rows, "id": np.arange(low, low + size), "y": rows[:, 0]})
            low += size
    return path


@pytest.mark.parametrize("batches", [[10], [4, 4, 2], [0], [3, 0]])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet"])
def test_what_is_written_reads_back(tmp_path: Path, suffix: str, batches: list[int]) -> None:
    source = open_source(_write(tmp_path / f"out{suffix}", batches))
    found = source.block(0, len(source))
    np.testing.assert_array_equal(found.astype(np.float32).reshape(-1, 2, 3), ROWS[: sum(batches)])
    assert os.listdir(tmp_path) == [f"out{suffix}"]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_equal_results_make_equal_files(tmp_path: Path, suffix: str) -> None:
    first, second = _write(tmp_path / f"a{suffix}", [10]), _write(tmp_path / f"b{suffix}", [3, 7])
    assert first.read_bytes() == second.read_bytes()


def test_npy_is_what_numpy_writes(tmp_path: Path) -> None:
    np.save(tmp_path / "numpy.npy", ROWS)
    assert _write(tmp_path / "ours.npy", [4, 6]).read_bytes() == (tmp_path / "numpy.npy").read_bytes()


def test_fields_and_order_of_columns(tmp_path: Path) -> None:
    fields = [Field("id", ("id",), table_only=True), Field("x", COLUMNS), Field("y", ("a", "b", "c"))]
    with np.load(_write(tmp_path / "o.npz", [6, 4], fields)) as arrays:
        assert list(arrays) == ["x", "y"]
        np.testing.assert_array_equal(arrays["y"], ROWS[:, 0])
    np.testing.assert_array_equal(np.load(_write(tmp_path / "o.npy", [6, 4], fields)), ROWS)
    with open_sink(tmp_path / "o.csv", 1, fields, order=["c", *COLUMNS, "a", "b"]) as sink:
        sink.write({"id": np.array([7]), "x": ROWS[:1], "y": ROWS[:1, 0]})
    assert list(pd.read_csv(tmp_path / "o.csv")) == ["id", "c", *COLUMNS, "a", "b"]


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_rows_on_another_axis(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"o{suffix}"
    with open_sink(path, 3, [Field("x", rows_axis=1)]) as sink:
        sink.write({"x": ROWS[:, :1]})
        sink.write({"x": ROWS[:, 1:]})
    source = open_source(path)
    np.testing.assert_array_equal(source.block(0, 10), ROWS)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_keep_their_types(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"o{suffix}"
    fields = [Field("name", ("name",)), Field("x", ("n", "v"), (np.dtype(np.int64), np.dtype(np.float64)))]
    with open_sink(path, 2, fields) as sink:
        sink.write({"name": np.array(["a", None], dtype=object), "x": np.array([[1.0, 0.1], [2.0, np.nan]])})
    frame = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    assert frame["n"].dtype == np.int64
    assert frame["v"].isna().tolist() == [False, True]
    assert frame["name"].isna().tolist() == [False, True]


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="'x_0' is also a column"),
        open_sink(tmp_path / "o.csv", 1, [Field("x_0", ("x_0",)), Field("x", COLUMNS)]),
    ):
        pass
    assert not os.listdir(tmp_path)


def test_png_fields_take_turns(tmp_path: Path) -> None:
    black, white = np.zeros((3, 1, 40, 40)), np.ones((3, 1, 40, 40))
    with open_sink(tmp_path / "o.png", 3, [Field("a"), Field("b")], grid_columns=2) as sink:
        sink.write({"a": black, "b": white})
    picture = np.asarray(PIL.Image.open(tmp_path / "o.png"))
    assert picture.shape == (4 * 42 + 2, 2 * 42 + 2)
    assert [int(picture[line * 42 + 20, 20]) for line in range(4)] == [0, 255, 0, 255]


def _fail(sink: Sink, error: type[BaseException]) -> None:
    sink.write({"x": ROWS[:5]})
    raise error


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_stays_when_the_work_fails(tmp_path: Path, suffix: str, error: type[BaseException]) -> None:
    (tmp_path / f"out{suffix}").write_bytes(b"before")
    with pytest.raises(error), open_sink(tmp_path / f"out{suffix}", 10, [Field("x", COLUMNS)]) as sink:
        _fail(sink, error)
    assert os.listdir(tmp_path) == [f"out{suffix}"]
    assert (tmp_path / f"out{suffix}").read_bytes() == b"before"


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_nothing_stays_when_the_disk_is_full(tmp_path: Path, suffix: str) -> None:
    images = np.random.default_rng(0).random((50, 1, 40, 40))
    columns = tuple(map(str, range(1600)))
    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, previous[1]))
    try:
        with (
            pytest.raises(OutputError, match=f"cannot write .*out{suffix}"),
            open_sink(tmp_path / f"out{suffix}", 100, [Field("x", columns)]) as sink,
        ):
            sink.write({"x": np.concatenate([images, images])})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not os.listdir(tmp_path)


def test_targets(tmp_path: Path) -> None:
    assert check_target(tmp_path / "a.CSV", [".npy", ".csv"]) == ".csv"
    with pytest.raises(InputError, match=r"expected a name ending in \.npy, \.csv, got .*a\.txt"):
        check_target(tmp_path / "a.txt", [".npy", ".csv"])
    (tmp_path / "a.npy").touch()
    with pytest.raises(OutputError, match=r"a\.npy exists; pass --force"):
        check_target(tmp_path / "a.npy", [".npy"])
    assert check_target(tmp_path / "a.npy", [".npy"], force=True) == ".npy"
    with pytest.raises(OutputError, match="no such folder"):
        check_target(tmp_path / "missing" / "a.npy", [".npy"])
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        check_target(tmp_path / "folder.npy", [".npy"], force=True)


@pytest.mark.parametrize(("suffix", "package"), [(".csv", "pandas"), (".parquet", "pyarrow"), (".png", "PIL")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.Image", None)
    with (
        pytest.raises(UnsupportedError, match=r"pip install .fastvae-engine\[cli\]"),
        open_sink(tmp_path / f"o{suffix}", 1, [Field("x", ("x",))]) as sink,
    ):
        sink.write({"x": np.zeros((1, 1, 1, 1))})
    assert not os.listdir(tmp_path)


def test_optional_packages_stay_unimported() -> None:
    code = "import sys, fastvae.files; print(sorted({'pandas', 'pyarrow', 'PIL', 'typer', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    assert done.stdout.strip() == "[]"


def _environment() -> dict[str, str]:
    root = Path(__file__).parents[3]
    return os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'kernels'}"}
