"""What the tests of the command line share: a way to call it, and files to call it on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from fastvae.cli.app import app
from fastvae.formats import native
from fastvae.layers import Flatten, Layer, Linear, Reshape
from fastvae.model import Model
from fastvae.spec import Bernoulli, Condition, FixedGaussian, GaussianHead, Likelihood, ModelSpec

Call = Callable[..., Result]


def _spec(shape: tuple[int, ...], likelihood: Likelihood, condition: Condition | None = None) -> ModelSpec:
    size, extra = int(np.prod(shape)), condition.dim if condition else 0
    flatten: tuple[Layer, ...] = (Flatten(),) if len(shape) > 1 else ()
    unflatten: tuple[Layer, ...] = (Reshape(shape),) if len(shape) > 1 else ()
    head = GaussianHead("separate", mean=(Linear("mean", 5, 2),), scale=(Linear("logvar", 5, 2),))
    encoder, decoder = Linear("encoder", size + extra, 5), Linear("decoder", 2 + extra, size)
    return ModelSpec(shape, (2,), (*flatten, encoder), head, (decoder, *unflatten), likelihood, condition)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small random models: ``table`` (6 columns), ``labels`` (conditional, 3 classes), ``rgb`` (3x8x8)."""
    folder = tmp_path_factory.mktemp("models")
    specs = {
        "table": _spec((6,), FixedGaussian(0.5)),
        "labels": _spec((6,), FixedGaussian(0.5), Condition(3)),
        "rgb": _spec((3, 8, 8), Bernoulli()),
    }
    generator = torch.Generator().manual_seed(0)
    for name, spec in specs.items():
        weights = {key: torch.randn(shape, generator=generator) / 3 for key, shape in spec.tensors().items()}
        native.write(Model(spec, weights), folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def call() -> Call:
    """``fastvae`` with arguments; anything but a clean exit with ``status`` fails the test."""

    def call(*arguments: object, status: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == status, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return call


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """``digits.npy``: 30 rows for the model ``digits``."""
    path = tmp_path / "digits.npy"
    np.save(path, np.random.default_rng(0).random((30, 1, 8, 8), np.float32))
    return path


@pytest.fixture
def holes() -> NDArray[np.float64]:
    """(20, 6) with a fifth of the entries NaN, but none in the first column."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((20, 6))
    missing = generator.random(rows.shape) < 0.2
    missing[:, 0] = False
    rows[missing] = np.nan
    return rows


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walk over data seven rows at a time, so that small data take several blocks."""
    monkeypatch.setattr("fastvae.cli.work.MAX_BLOCK_ROWS", 7)
    monkeypatch.setattr("fastvae.cli.work.MIN_BLOCK_ROWS", 1)
