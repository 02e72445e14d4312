"""Effective samples and acceptance rates against what is known of them, and the warning that they are too few."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import fastvae
from fastvae import noise
from fastvae.errors import ImputationWarning, InputError
from fastvae.imputation import Imputer, advice
from fastvae.imputation.blocks import marginal_mean
from tests.fastvae.support import SPECS, condition_for, data_for, linear_gaussian, vae

MODEL = linear_gaussian(features=6, latent_dim=2, s2=0.2, seed=3)
GENERATOR = np.random.default_rng(5)
X = MODEL.b + GENERATOR.normal(size=(10, 2)) @ MODEL.W.T + np.sqrt(0.2) * GENERATOR.normal(size=(10, 6))
MISSING = GENERATOR.random(X.shape) < 0.4
HOLES = np.where(MISSING, np.nan, X)


def test_effective_samples_are_those_of_the_weights() -> None:
    """Against all weights at once, which the chunks of the imputation never hold."""
    model = MODEL.vae(widen=1.5, batch_size=20)
    found = model.impute(HOLES, samples=50, seed=3, rounds=1, diagnostics=True)
    assert isinstance(found, fastvae.Imputation)
    engine = model._engine
    filled = torch.where(torch.from_numpy(MISSING), marginal_mean(engine, None), torch.from_numpy(X))
    mean, logvar = engine.encode(filled)
    z, _ = engine.draws.from_posterior(mean, logvar, seed=3, start=0, stream=noise.IMPUTE_POSTERIOR, samples=50)
    nll, _ = engine.impute(z, filled, mask=~torch.from_numpy(MISSING))
    weights = torch.exp(engine.draws.prior.log_ratio(z, mean, logvar) - nll).numpy()
    np.testing.assert_allclose(found.effective_samples, weights.sum(0) ** 2 / (weights**2).sum(0), rtol=1e-6)
    assert found.acceptance_rate is None
    np.testing.assert_array_equal(found.values, model.impute(HOLES, samples=50, seed=3, rounds=1))


def test_weights_of_the_exact_posterior_are_all_the_same() -> None:
    found = MODEL.vae().impute(X, samples=40, diagnostics=True)
    np.testing.assert_allclose(found.effective_samples, 40, rtol=1e-6)
    np.testing.assert_array_equal(MODEL.vae().impute(X, method="metropolis", diagnostics=True).acceptance_rate, 1.0)


def test_a_wider_proposal_has_the_effective_samples_that_the_integral_says() -> None:
    """Of N(0, w^2) for N(0, 1) in two dimensions: (2 w^2 - 1) / w^4 of those taken."""
    found = MODEL.vae(widen=1.5).impute(X, samples=4000, rounds=1, diagnostics=True)
    expected = 4000 * (2 * 1.5**2 - 1) / 1.5**4
    np.testing.assert_allclose(found.effective_samples, expected, rtol=0.06)


def test_no_sample_that_explains_the_row_counts_none() -> None:
    x = np.full((1, 6), 1e160)
    with pytest.warns(ImputationWarning, match=r"1 of 1 rows with missing entries rest on fewer than 1 effective"):
        found = MODEL.vae().impute(np.where(np.arange(6) < 3, np.nan, x), samples=4, diagnostics=True)
    assert found.effective_samples.tolist() == [0.0]
    assert found.unreliable.tolist() == [True]


@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("method", ["importance", "metropolis"])
def test_values_and_diagnostics_depend_on_neither_batch_nor_chunk(method: Any, invariant: bool) -> None:
    """Bit for bit in batch-invariant mode, else but for the roundings of a product."""

    def impute(x: Any, start: int = 0, **settings: object) -> tuple[Any, Any]:
        model = MODEL.vae(widen=1.5, batch_invariant=invariant, **settings)
        found = model.impute(x, method=method, samples=40, start=start, diagnostics=True)
        return found.values, found.effective_samples if method == "importance" else found.acceptance_rate

    def compare(found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
        np.testing.assert_allclose(found[0], expected[0], rtol=0 if invariant else 1e-9)
        np.testing.assert_allclose(found[1], expected[1], rtol=0 if invariant else 1e-6)

    values, trust = impute(HOLES)
    assert len(np.unique(trust)) > 4
    for size in (1, 64):
        compare(impute(HOLES, batch_size=size), (values, trust))
    for low, high in ((0, 1), (4, 9)):
        compare(impute(HOLES[low:high], start=low), (values[low:high], trust[low:high]))


@pytest.mark.parametrize("name", ["mlp_conditional", "conv"])
def test_diagnostics_come_in_the_kind_of_the_rows(name: str) -> None:
    spec = SPECS[name]
    model, x, c = vae(spec), data_for(spec, 4).astype(np.float32), condition_for(spec, 4)
    x[np.random.default_rng(0).random(x.shape) < 0.3] = np.nan
    x[1] = 0.5
    arrays = model.impute(x, samples=60, condition=c, diagnostics=True)
    assert arrays.effective_samples.dtype == np.float32
    assert arrays.unreliable.dtype == np.bool_
    assert not arrays.unreliable[1]
    tensors = model.impute(torch.from_numpy(x), samples=60, condition=c, diagnostics=True)
    assert isinstance(tensors.effective_samples, torch.Tensor)
    assert isinstance(tensors.unreliable, torch.Tensor)
    np.testing.assert_array_equal(tensors.effective_samples, arrays.effective_samples)
    chain = model.impute(x, method="gibbs", samples=10, condition=c, n_imputations=2, diagnostics=True)
    assert chain.values.shape == (2, *x.shape)
    assert chain.effective_samples is chain.acceptance_rate is None
    assert not chain.unreliable.any()
    none = model.impute(x[:0], samples=4, condition=None if c is None else c[:0], diagnostics=True)
    assert none.effective_samples.shape == none.unreliable.shape == (0,)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "importance",
            "impute: {} of 8 rows with missing entries rest on fewer than 5 effective samples of 100: take",
        ),
        ("metropolis", "impute: {} of 8 rows with missing entries accepted fewer than 5 of 50 proposals: take more"),
    ],
)
def test_collapse_warns_once_a_call_where_it_was_called(method: Any, message: str) -> None:
    model = MODEL.vae(shift=3.0, widen=0.6, batch_size=64)
    holes = HOLES.copy()
    holes[4] = X[4]
    with pytest.warns(ImputationWarning) as caught:
        found = model.impute(holes, method=method, samples=100, diagnostics=True)
    assert len(caught) == 1
    assert str(caught[0].message).startswith(message.format(found.unreliable.sum()))
    assert caught[0].filename == __file__
    trust = found.effective_samples if method == "importance" else 50 * found.acceptance_rate
    np.testing.assert_array_equal(found.unreliable, np.isnan(holes).any(1) & (trust < 4.999))
    assert found.unreliable.sum() > 4
    with pytest.warns(ImputationWarning):
        model.impute(holes, method=method, samples=100)


@pytest.mark.parametrize("method", ["importance", "metropolis", "gibbs"])
def test_enough_samples_warn_of_nothing(method: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MODEL.vae(widen=1.5).impute(HOLES, method=method, samples=300)


def test_a_tenth_of_the_rows_may_be_unreliable() -> None:
    imputer = Imputer("importance", 1, 300, 0, 3)
    assert advice(imputer, 0, 0) is None
    assert advice(imputer, 10, 100) is None
    assert advice(imputer, 11, 100) is not None


def test_one_round_proposes_from_the_marginal_mean_alone() -> None:
    """Its samples are those of the first of several rounds."""
    model = MODEL.vae(widen=1.5)
    once, again = (model.impute(HOLES, samples=20, rounds=rounds) for rounds in (1, 2))
    assert not np.allclose(once, again)
    with pytest.raises(InputError, match="rounds: expected an integer from 1 to 100, got 0"):
        model.impute(HOLES, rounds=0)
