"""What no job over a data set can be made of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fastvae
from fastvae import bulk
from fastvae.bulk import ReadOptions
from fastvae.bulk.table import Rows
from fastvae.errors import InputError
from tests.fastvae.bulk.tables import IDS, N

Mistake = tuple[Callable[..., bulk.Report], dict[str, Any], str]
MISTAKES: list[Mistake] = [
    (bulk.encode, {"output": "median"}, "output: expected one of 'posterior', 'mean', 'sample'"),
    (bulk.encode, {"samples": 0}, "samples: expected"),
    (bulk.encode, {"seed": -1}, "seed: expected"),
    (bulk.encode, {"dtype": "uint8"}, "dtype: 'uint8' is for values in"),
    (bulk.encode, {"format": "npy"}, r"format: 'npy' holds one column, and these are 4 \(name, number, mean, logvar\)"),
    (bulk.encode, {"format": "csv"}, "format: expected"),
    (bulk.encode, {"workers": 0}, "workers: expected"),
    (bulk.encode, {"shard_size": 0}, "shard_size: expected"),
    (bulk.encode, {"invalid": "propagate"}, "invalid: expected 'raise' or 'mask'"),
    (bulk.encode, {"reading": {"scale": 1}}, "reading: expected ReadOptions, got dict"),
    (bulk.encode, {"reading": ReadOptions(image_shape=(3, 8, 8))}, r"reading: this model takes rows of shape \(6,\)"),
    (bulk.encode, {"reading": ReadOptions(id_columns=("name", "number", "x0"))}, r"found \(5,\); name ids"),
    (bulk.encode, {"reading": ReadOptions(id_columns=("nobody",))}, "has no column 'nobody'"),
    (bulk.encode, {"out": 3}, "out: expected a folder"),
    (bulk.encode, {"condition": 1}, "condition: this model is not conditional"),
    (bulk.score, {"metric": "surprise"}, "metric: expected one of"),
    (bulk.score, {"metric": ["mse", "mse"]}, "metric: expected one or several, each once"),
    (bulk.score, {"metric": []}, "metric: expected one or several"),
    (bulk.score, {"metric": 3}, "metric: expected one of"),
    (bulk.score, {"dtype": "uint8"}, "dtype: 'uint8' is for values in"),
    (bulk.reconstruct, {"dtype": "uint8"}, "dtype: uint8 needs outputs in"),
    (bulk.reconstruct, {"dtype": "uint8", "invalid": "mask"}, "dtype: 'uint8' has no NaN"),
]


@pytest.mark.parametrize(("verb", "changed", "message"), MISTAKES)
def test_mistakes(
    tmp_path: Path, gaussian: fastvae.VAE, table: Path, verb: Any, changed: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"model": gaussian, "data": table, "out": tmp_path / "out", "reading": IDS}
    with pytest.raises(InputError, match=message):
        verb(**(arguments | changed))
    assert not (tmp_path / "out").exists()


def test_ids_that_are_called_like_a_result(tmp_path: Path, gaussian: fastvae.VAE, rows: Rows) -> None:
    for name in ("index", "mean"):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({name: np.arange(N)} | {f"x{i}": rows[:, i] for i in range(6)}), path)
        with pytest.raises(InputError, match=f"id_columns: '{name}' is also a column of the result"):
            bulk.encode(gaussian, path, tmp_path / "out", reading=ReadOptions(id_columns=(name,)))


def test_text_in_a_format_that_has_no_place_for_it(
    tmp_path: Path, gaussian: fastvae.VAE, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastvae.bulk.datasets.WITH_TEXT", ())
    with pytest.raises(InputError, match=r"format: 'parquet' has no place for ids of text \(name\)"):
        bulk.encode(gaussian, table, tmp_path / "out", reading=IDS)
