"""Imputation against the closed form of a linear-Gaussian model, and against mean imputation on real data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fastvae
from bench.datasets import load as load_data
from fastvae.errors import InputError
from tests.fastvae.support import SPECS, condition_for, data_for, linear_gaussian, vae

# Few samples are quick; what they are worth is another test's.
pytestmark = pytest.mark.filterwarnings("ignore::fastvae.errors.ImputationWarning")
METHODS = ("importance", "metropolis", "gibbs")
MODEL = linear_gaussian(features=6, latent_dim=2, s2=0.2, seed=3)
GENERATOR = np.random.default_rng(5)
X = MODEL.b + GENERATOR.normal(size=(10, 2)) @ MODEL.W.T + np.sqrt(0.2) * GENERATOR.normal(size=(10, 6))
MISSING = GENERATOR.random(X.shape) < 0.4


def with_holes(x: Any, missing: Any) -> Any:
    return np.where(missing, np.nan, x)


@pytest.mark.parametrize("method", ["importance", "metropolis"])
def test_conditional_mean_of_a_linear_gaussian_model(method: Any) -> None:
    """Both are exact in the limit; the tolerance is 6 standard errors estimated from independent seeds."""
    model = MODEL.vae(widen=1.5)
    runs = np.stack([model.impute(with_holes(X, MISSING), method=method, samples=250, seed=seed) for seed in range(5)])
    expected = MODEL.conditional_mean(X, MISSING)
    error = runs.std(0, ddof=1) / np.sqrt(len(runs))
    assert np.all(np.abs(runs.mean(0) - expected)[MISSING] < 6 * error[MISSING] + 0.02)


@pytest.mark.parametrize("method", METHODS)
def test_draws_spread_as_the_conditional_distribution(method: Any) -> None:
    model = MODEL.vae(widen=1.5)
    draws = model.impute(with_holes(X, MISSING), method=method, n_imputations=40, samples=400, seed=1)
    assert draws.shape == (40, *X.shape)
    np.testing.assert_array_equal(draws[:, ~MISSING], np.broadcast_to(X, draws.shape)[:, ~MISSING])
    covariance = MODEL.W @ MODEL.W.T + MODEL.s2 * np.eye(6)
    for row, hidden in enumerate(MISSING):
        seen = ~hidden
        gain = covariance[np.ix_(hidden, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
        deviation = np.sqrt(np.diag(covariance[np.ix_(hidden, hidden)] - gain @ covariance[np.ix_(seen, hidden)]))
        ratio = draws[:, row, hidden].std(0) / deviation
        # 40 draws, correlated along a chain: a factor of two says noise of the right kind is there.
        assert np.all((ratio > 0.5) & (ratio < 2.0)), row


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp_bernoulli_interleaved", "mlp_predicted", "mlp_conditional", "conv"])
def test_observed_entries_come_back_untouched(name: str, method: Any) -> None:
    spec = SPECS[name]
    model = vae(spec)
    x, c = data_for(spec, 6), condition_for(spec, 6)
    missing = np.random.default_rng(0).random(x.shape) < 0.5
    missing[0], missing[1] = True, False
    for dtype in (np.float64, np.float32, np.float16):
        data = x.astype(dtype)
        filled = model.impute(with_holes(data, missing).astype(dtype), method=method, samples=8, condition=c)
        assert filled.dtype == dtype
        np.testing.assert_array_equal(filled[~missing], data[~missing])
        assert np.isfinite(filled).all()


def test_mask_and_nan_say_the_same() -> None:
    model = MODEL.vae()
    expected = model.impute(with_holes(X, MISSING), samples=10)
    sentinel = np.where(MISSING, -999.0, X)
    np.testing.assert_array_equal(model.impute(sentinel, MISSING, samples=10), expected)
    tensor = model.impute(torch.from_numpy(sentinel), torch.from_numpy(MISSING), samples=10)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    assert (sentinel[MISSING] == -999.0).all(), "the caller's array is left alone"
    read_only = with_holes(X, MISSING)
    read_only.setflags(write=False)
    np.testing.assert_array_equal(model.impute(read_only, samples=10), expected)


def test_pieces_are_imputed_as_the_whole() -> None:
    model = MODEL.vae()
    holes = with_holes(X, MISSING)
    for method in METHODS:
        whole = model.impute(holes, method=method, samples=20, seed=4)  # type: ignore[arg-type]
        parts = [
            model.impute(holes[low:high], method=method, samples=20, seed=4, start=low)  # type: ignore[arg-type]
            for low, high in ((0, 3), (3, 10))
        ]
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-9)


@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_beats_mean_imputation_on_held_out_data(name: str) -> None:
    data = load_data(name)
    train, held_out = (rows.reshape(len(rows), -1) for rows in (data.train, data.held_out[:60]))
    missing = np.random.default_rng(0).random(held_out.shape) < 0.5
    deviation = train.std(0) if name == "breast_cancer" else 1.0
    filled = fastvae.load(name).impute(with_holes(held_out, missing).astype(np.float32), samples=50)

    def rmse(guess: Any) -> float:
        return float(np.sqrt(np.mean((((guess - held_out) / deviation)[missing]) ** 2)))

    assert rmse(filled) < 0.8 * rmse(np.broadcast_to(train.mean(0), held_out.shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "mice"}, "method: expected one of 'importance'"),
        ({"n_imputations": 0}, "n_imputations: expected an integer from 1"),
        ({"method": "gibbs", "n_imputations": 6, "samples": 10}, "gives at most 5 draws"),
        ({"samples": 1}, "samples: expected an integer from 2"),
        ({"seed": True}, "seed: expected"),
        ({"start": -2}, "start: expected"),
        ({"mask": [True]}, "mask: expected a boolean array"),
        ({"mask": np.ones(X.shape)}, "mask: expected a boolean array, got float64"),
        ({"mask": np.ones((2, 2), dtype=bool)}, r"mask: expected the shape of x, \(10, 6\), got \(2, 2\)"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MODEL.vae().impute(X, **arguments)


def test_infinity_is_no_missing_value() -> None:
    broken = X.copy()
    broken[3, 1] = np.inf
    with pytest.raises(InputError, match=r"row 3 holds Inf.*; only NaN marks missing"):
        MODEL.vae().impute(broken)


@pytest.mark.parametrize("method", METHODS)
def test_rows_far_from_the_training_data_stay_finite(method: Any) -> None:
    """Pseudo-Gibbs without a bound on z diverged to NaN on held-out rows of this very data set."""
    data = load_data("breast_cancer")
    missing = np.random.default_rng(3).random(data.held_out.shape) < 0.5
    holes = with_holes(data.held_out, missing).astype(np.float32)
    filled = fastvae.load("breast_cancer").impute(holes, method=method, samples=100)
    deviations = np.abs((filled - data.train.mean(0)) / data.train.std(0))
    assert np.isfinite(filled).all()
    assert deviations[missing].max() < 2 * np.abs((data.held_out - data.train.mean(0)) / data.train.std(0)).max()
