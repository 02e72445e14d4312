"""Small models for bulk jobs, run by plain PyTorch: a job of theirs starts at once; and a table for them."""

from pathlib import Path

import numpy as np
import pytest

import fastvae
from fastvae.bulk.table import Rows
from fastvae.spec import Bernoulli, FixedGaussian
from tests.fastvae.bulk.tables import N, write_table
from tests.fastvae.support import mlp_spec, vae


@pytest.fixture(scope="session")
def model() -> fastvae.VAE:
    """A Bernoulli model of 6 numbers."""
    return vae(mlp_spec(likelihood=Bernoulli()), device="cpu", impl="reference")


@pytest.fixture(scope="session")
def gaussian() -> fastvae.VAE:
    """A Gaussian one."""
    return vae(mlp_spec(likelihood=FixedGaussian(0.5)), device="cpu", impl="reference")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "new" / "job"


@pytest.fixture(scope="session")
def rows() -> Rows:
    return np.random.default_rng(0).standard_normal((N, 6)).astype(np.float32)


@pytest.fixture
def table(tmp_path: Path, rows: Rows) -> Path:
    """A Parquet file of these rows in small row groups, with a column of text and one of integers."""
    path = tmp_path / "table.parquet"
    write_table(path, rows)
    return path
