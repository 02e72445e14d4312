"""Small models for bulk jobs, run by plain PyTorch: a job of theirs starts at once."""

from pathlib import Path

import pytest

import fastvae
from fastvae.spec import Bernoulli, FixedGaussian
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
