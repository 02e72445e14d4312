"""Scores against closed forms: a linear-Gaussian VAE, whose log p(x) and posterior are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from fastvae.errors import InputError
from tests.fastvae.support import data_for, linear_gaussian, mlp_spec, predicted_gaussian, vae

MODEL = linear_gaussian()
X = MODEL.b + 1.5 * np.random.default_rng(1).normal(size=(12, 5))


def test_with_the_exact_posterior_every_bound_is_log_p() -> None:
    exact = MODEL.vae()
    for samples in (1, 7):
        # Every importance weight equals p(x), so the bound is exact for any draw.
        found = -exact.score(X, "iwae", samples=samples)
        np.testing.assert_allclose(found, MODEL.log_evidence(X), rtol=1e-12)


def exact_gap(shift: float, widen: float) -> float:
    """KL(q || posterior) of two Gaussians with the same (diagonal) shape, q moved by shift and wider by widen."""
    variances = np.diag(MODEL.posterior()[2])
    terms = widen**2 - 1 - 2 * np.log(widen) + shift**2 / variances
    return float(0.5 * terms.sum())


@pytest.mark.parametrize(("shift", "widen"), [(0.2, 1.0), (0.0, 1.3), (0.1, 0.8)])
def test_elbo_stays_below_by_the_divergence_of_q_from_the_posterior(shift: float, widen: float) -> None:
    model = MODEL.vae(shift=shift, widen=widen)
    draws = np.stack([-model.score(X, "elbo", samples=500, seed=seed) for seed in range(8)])
    elbo, error = draws.mean(0), draws.std(0, ddof=1) / np.sqrt(len(draws))
    gap = MODEL.log_evidence(X) - elbo
    assert np.all(gap > 0)
    # 6 standard errors, as estimated from 8 independent runs, leave one failure in some thousand per row.
    assert np.all(np.abs(gap - exact_gap(shift, widen)) < 6 * error)


def test_iwae_converges_to_log_p_from_below() -> None:
    model = MODEL.vae(shift=0.2, widen=1.3)
    evidence = MODEL.log_evidence(X)
    means = []
    for samples in (1, 8, 64, 2000):
        runs = np.stack([-model.score(X, "iwae", samples=samples, seed=seed) for seed in range(16)])
        means.append(runs.mean())
    assert means == sorted(means), "the bound is monotone in K in expectation"
    error = runs.std(0, ddof=1)
    # 6 standard errors of the mean of 16 runs, and a bias of half the variance of one (second order in 1/K).
    assert np.all(np.abs(runs.mean(0) - evidence) < 6 * error / 4 + error**2)


def test_reconstruction_at_the_mean_is_the_gaussian_density() -> None:
    exact = MODEL.vae()
    A, c, _ = MODEL.posterior()
    mean = (X @ A.T + c) @ MODEL.W.T + MODEL.b
    expected = -norm.logpdf(X, mean, np.sqrt(MODEL.s2)).sum(1)
    np.testing.assert_allclose(exact.score(X), expected, rtol=1e-12)


def test_predicted_variances_enter_the_density() -> None:
    model = vae(mlp_spec(predicted_gaussian()), precision="float64")
    x = data_for(model.spec, 6)
    import torch

    mean, logvar = (p.numpy() for p in model._engine.parameters(torch.from_numpy(model.embed(x))))
    expected = -norm.logpdf(x, mean, np.exp(logvar / 2)).sum(1)
    np.testing.assert_allclose(model.score(x), expected, rtol=1e-12)


def test_samples_average_and_seeds_differ() -> None:
    model = MODEL.vae(widen=1.3)
    first, second = (model.score(X, "elbo", samples=1, seed=seed) for seed in (0, 1))
    assert np.abs(first - second).max() > 0
    np.testing.assert_array_equal(first, model.score(X, "elbo", samples=1, seed=0))
    np.testing.assert_array_equal(model.score(X), model.score(X))
    # The K draws of one seed are the streams 0..K-1, so K = 1 is the first term of K = 2.
    two = model.score(X, "elbo", samples=2, seed=0)
    assert np.abs(two - first).max() > 0


def test_scores_in_pieces_are_the_scores_of_the_whole() -> None:
    model = MODEL.vae(widen=1.3)
    whole = model.score(X, "iwae", samples=5, seed=3)
    pieces = [model.score(X[low:high], "iwae", samples=5, seed=3, start=low) for low, high in ((0, 5), (5, 12))]
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "surprise"}, "metric: expected one of 'reconstruction'"),
        ({"samples": 0}, "samples: expected an integer from 1"),
        ({"samples": 2.0}, "samples: expected an integer"),
        ({"seed": -1}, "seed: expected an integer in"),
        ({"seed": 2**64}, "seed: expected an integer in"),
        ({"beta": -1.0}, "beta: expected a finite number"),
        ({"beta": float("nan")}, "beta: expected a finite number"),
        ({"start": -1}, "start: expected an integer"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MODEL.vae().score(X, **arguments)  # type: ignore[arg-type]
