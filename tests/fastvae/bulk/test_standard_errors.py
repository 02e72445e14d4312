"""``bulk.score`` with standard errors: the columns of ``log_likelihood``, for every row once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fastvae import bulk
from fastvae.errors import InputError
from tests.fastvae.support import data_for, mlp_spec, vae


def test_columns_are_those_of_the_model(tmp_path: Path) -> None:
    model = vae(mlp_spec(), batch_invariant=True)
    x = data_for(model.spec, 50).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    settings: dict[str, Any] = {"metric": "iwae", "samples": 5, "seed": 3, "standard_errors": True}
    report = bulk.score(model, tmp_path / "x.npy", tmp_path / "out", shard_size=20, workers=1, **settings)
    assert report.shards == 3
    table = pd.concat([pd.read_parquet(file) for file in sorted((tmp_path / "out").glob("*.parquet"))])
    found = model.log_likelihood(x, 5, 3)
    columns = {"iwae": -found.estimate, "standard_error": found.standard_error}
    columns["effective_sample_size"] = found.effective_sample_size
    assert [name for name in table if name != "index"] == list(columns)
    for name, values in columns.items():
        np.testing.assert_array_equal(table[name].to_numpy(), values)
    assert not bulk.verify(tmp_path / "out", model=model, data=tmp_path / "x.npy").problems


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": ["iwae", "elbo"], "samples": 5}, "standard_errors: for the one metric iwae or elbo"),
        ({"metric": "mse", "samples": 5}, "standard_errors: for the one metric"),
        ({"metric": "elbo", "samples": 5, "beta": 2.0}, "with beta 1"),
        ({"metric": "iwae"}, "samples: expected an integer from 2"),
    ],
)
def test_scores_without_standard_errors(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bulk.score("digits", tmp_path / "x.npy", tmp_path / "out", standard_errors=True, **settings)
