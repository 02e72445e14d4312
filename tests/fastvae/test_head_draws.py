"""Draws from models of every likelihood: their distribution and noise; and what imputation makes of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from fastvae import noise
from fastvae.likelihoods import quantiles
from tests.fastvae.head_specs import HEADS, MIXED, OBSERVED, exact, log_density, rows_of, seen
from tests.fastvae.support import condition_for

N = 20_000


def draws_of(name: str) -> tuple[Any, dict[str, Any], Any]:
    """Draws at one latent, their likelihood's parameters (1, ...), and the mean that decoding gives."""
    model, spec = exact(name), HEADS[name]
    z = np.random.default_rng(0).normal(size=(1, *spec.latent_shape))
    condition = None if spec.condition is None else np.array([[1.0, 0.0]])
    given = None if condition is None else torch.from_numpy(condition)
    one = model._engine.parameters(torch.from_numpy(z), given)
    many = tuple(value.expand(N, *value.shape[1:]) for value in one)
    draws = model._engine.head.sample(many, seed=1, start=0, stream=noise.LIKELIHOOD).numpy()
    named = {k: v.numpy() for k, v in model._engine.head._named(one).items()} if name != "mixed" else {}
    return draws, named, model.decode(z, condition=condition)


@pytest.mark.parametrize("name", [name for name in HEADS if name != "mixed"])
def test_draws_have_the_mean_that_decoding_gives(name: str) -> None:
    draws, p, mean = draws_of(name)
    if HEADS[name].likelihood.kind == "student_t":  # whose variance may be infinite
        location = np.broadcast_to(p["location"], mean.shape)
        share = (draws < location).mean(0)
        np.testing.assert_allclose(share, 0.5, atol=6 * 0.5 / np.sqrt(N))
        return
    error = draws.std(0) / np.sqrt(N)
    assert np.all(np.abs(draws.mean(0) - mean[0]) <= 6 * error + 1e-9)


@pytest.mark.parametrize("name", [name for name in HEADS if name not in ("mixed", "multinomial", "categorical")])
def test_draws_have_the_distribution_of_the_density(name: str) -> None:
    """Of the first entry: the largest distance of the empirical distribution from that of the density."""
    draws, p, _ = draws_of(name)
    kind = HEADS[name].likelihood.kind
    first = {k: np.asarray(v).reshape(-1)[:1] for k, v in p.items()}
    drawn = np.sort(draws.reshape(N, -1)[:, 0])
    if kind in ("poisson", "negative_binomial"):
        values = np.arange(drawn[-1] + 1)
        cumulated = np.cumsum(np.exp(log_density(kind, first, values)))
    else:
        values = np.quantile(drawn, np.linspace(0.01, 0.99, 25))
        low = 0.0 if kind == "continuous_bernoulli" else values[0] - 4000
        grid = np.concatenate([[low], values])
        cumulated = np.cumsum([_integral(kind, first, *ends) for ends in pairwise(grid)])
    found = np.searchsorted(drawn, values, side="right") / N
    assert np.abs(found - cumulated).max() < 2.2 / np.sqrt(N)  # Kolmogorov: once in 8,000


def _integral(kind: str, p: dict[str, Any], low: float, high: float) -> float:
    """Of the density, by a fine sum in a scale that is finer towards ``high``."""
    far = high - low > 100
    t = np.linspace(0, 1, 20_001)
    x = high - (high - low) * t**4 if far else low + (high - low) * t
    return abs(float(np.trapezoid(np.exp(log_density(kind, p, x)), x)))


@pytest.mark.parametrize("name", HEADS)
def test_a_draw_is_a_function_of_seed_and_index(name: str) -> None:
    model, spec = exact(name), HEADS[name]
    condition = None if spec.condition is None else np.random.default_rng(1).random((9, 2))
    whole = model.generate(9, seed=3, start=5, output="sample", condition=condition)
    assert whole.shape == (9, *spec.input_shape)
    part = None if condition is None else condition[4:7]
    # A product's last bit may depend on the rows beside; the noise does not.
    np.testing.assert_allclose(model.generate(3, 3, 9, "sample", part), whole[4:7], rtol=1e-12)
    assert not np.array_equal(model.generate(9, 4, 5, "sample", condition), whole)
    for support in model._engine.head.supports:
        assert not support.outside(torch.from_numpy(whole)).any()
    assert model.generate(0, output="sample", condition=condition[:0] if condition is not None else None).size == 0


def test_segments_draw_independently() -> None:
    draws, _, mean = draws_of("mixed")
    error = draws.std(0) / np.sqrt(N)
    heavy = [low for segment, (low, _), _ in MIXED.spans() if segment.likelihood.kind == "student_t"]
    off = np.abs(draws.mean(0) - mean[0]) > 6 * error + 1e-9
    off[heavy] = False
    assert not off.any()
    for (_, before, _), (_, after, _) in pairwise(MIXED.spans()):
        between = stats.spearmanr(draws[:, before[1] - 1], draws[:, after[0]]).statistic
        assert abs(between) < 6 / np.sqrt(N), (before, after)


@pytest.mark.filterwarnings("ignore::fastvae.errors.ImputationWarning")
@pytest.mark.parametrize("method", ["importance", "metropolis", "gibbs"])
@pytest.mark.parametrize("name", [name for name in HEADS if name not in OBSERVED])
def test_imputed_rows_keep_what_was_seen_and_have_the_right_values(name: str, method: Any) -> None:
    model, spec = exact(name), HEADS[name]
    x, condition = rows_of(spec, 4), condition_for(spec, 4)
    holes = np.where(seen(name, 4), x, np.nan)
    filled = model.impute(holes, method=method, n_imputations=2, samples=6, condition=condition)
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[:, seen(name, 4)], np.stack([x, x])[:, seen(name, 4)])
    for support in model._engine.head.supports:
        assert not support.outside(torch.from_numpy(filled).flatten(0, 1)).any()


def uniforms(count: int) -> Any:
    """As noise has them: multiples of 2**-33, the smallest and the largest among them."""
    u = (np.random.default_rng(0).integers(0, 2**32, count) + 0.5) / 2**32
    u[:4] = 2.0**-33, 1 - 2.0**-24, 2.0**-33, 1 - 2.0**-24
    return np.minimum(u, 1 - 2.0**-24)


def test_gamma_quantiles() -> None:
    """To the 3e-10 that PyTorch's incomplete gamma function keeps at shapes of about 20."""
    u, shape = uniforms(3000), np.exp(np.random.default_rng(1).uniform(-6, 14, 3000))
    shape[:4] = 0.003, 0.003, 1e6, 1e6
    found = quantiles.gamma(torch.from_numpy(u), torch.from_numpy(shape)).numpy()
    expected = stats.gamma.ppf(u, shape)
    large = expected > 1e-280
    np.testing.assert_allclose(found[large], expected[large], rtol=1e-9)
    assert (found[~large] <= 1e-280).all()


@pytest.mark.parametrize("shape", [0.01, 0.4, 1.0, 3.0, 50.0, 1e5])
def test_gammas_by_rejection_have_their_distribution(shape: float) -> None:
    """Also where neither try is accepted, and of shapes below 1."""
    generator = torch.Generator().manual_seed(0)
    u = [torch.rand(N, generator=generator, dtype=torch.float64) for _ in range(6)]
    found = quantiles.log_gamma(torch.full((N,), shape, dtype=torch.float64), u)
    if shape == 0.01:  # most are below the smallest number: log X is -Exp / shape nearly
        assert stats.kstest((-found * shape).numpy(), "expon").pvalue > 1e-3
    else:
        assert stats.kstest(found.exp().numpy(), stats.gamma(shape).cdf).pvalue > 1e-3
    first = [x[:9] for x in u]
    refused = [*first[:2], torch.ones(9), torch.ones(9), *first[4:]]
    raised = torch.tensor(shape + (shape < 1), dtype=torch.float64)
    expected = torch.log(quantiles.gamma(first[5], raised)) + (torch.log(first[4]) / shape if shape < 1 else 0)
    found = quantiles.log_gamma(torch.full((9,), shape, dtype=torch.float64), refused)
    torch.testing.assert_close(found, expected)


def test_poisson_quantiles_are_exact() -> None:
    u, rate = uniforms(3000), np.exp(np.random.default_rng(1).uniform(-20, 14, 3000))
    found = quantiles.poisson(torch.from_numpy(u), torch.from_numpy(rate)).numpy()
    np.testing.assert_array_equal(found, stats.poisson.ppf(u, rate))


def test_quantiles_at_extremes_are_finite() -> None:
    u = torch.tensor([2.0**-33, 0.5, 1 - 2.0**-24], dtype=torch.float64)[:, None]
    sizes = torch.tensor([0.0, 1e-300, 1e-30, 1.0, 1e10, 1e15, 1e300], dtype=torch.float64)
    for draw in (
        quantiles.poisson(u, sizes),
        quantiles.gamma(u, sizes),
        quantiles.continuous_bernoulli(u, sizes),
        quantiles.continuous_bernoulli(u, -sizes),
        quantiles.student_t(u, u, sizes.clamp(1e-26, 1e26)),
    ):
        assert draw.isfinite().all()
    assert torch.equal(quantiles.poisson(u, sizes[:1]), torch.zeros(3, 1, dtype=torch.float64))
