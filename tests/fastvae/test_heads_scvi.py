"""Negative binomials against scvi-tools' own: densities, means, draws, and a whole scVI decoder in its four modes.

scvi-tools adds eps = 1e-8 inside of every logarithm. With e for eps, its log-density of a negative binomial has the
derivative θ/(θ+e) + x/(μ+e) - (θ+x)/(θ+μ+e) in e, which lies between -1 and 1 + x/μ: so far apart, times e, are the
two densities, and equal but for rounding where e is too small to change a sum. Extra zeros lower the difference.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastvae import VAE
from fastvae.heads import ByCondition, NegativeBinomial, PerDimension, Predicted, Source
from fastvae.layers import Activation, BatchNorm, Linear
from fastvae.likelihoods import OutputHead, expectation
from fastvae.model import Model
from fastvae.runtime import Settings
from fastvae.spec import Condition, ModelSpec
from fastvae_kernels import negative_binomial_nll
from tests.fastvae.support import mlp_spec, random_model

scvi = pytest.importorskip("scvi", reason="scvi-tools is not installed")
density = pytest.importorskip("scvi.distributions._negative_binomial")

EPS = 1e-8
TINY = 1e-300  # changes no sum; and not 0, with which scvi-tools takes no count for a zero
ROUNDING = 8 * 2.0**-53
N = 20_000
GENES, LATENT, HIDDEN = 6, 2, 8
LABELS = 3

Parameters = tuple[Tensor, Tensor, Tensor, Tensor]


def parameters(rows: int = 4000) -> Parameters:
    """Counts, logarithms of means and of dispersions, and log-odds of extra zeros, each (rows, 1)."""
    generator = np.random.default_rng(0)
    m, r, zero = (generator.uniform(low, high, rows) for low, high in ((-8, 9), (-5, 9), (-12, 12)))
    theta = np.exp(r)
    x = generator.poisson(generator.gamma(theta, np.exp(m) / theta)).astype(float)
    x[::7] = generator.integers(0, 2000, len(x[::7]))
    return tuple(torch.from_numpy(values)[:, None] for values in (x, m, r, zero))  # type: ignore[return-value]


def rounding(x: Tensor, mu: Tensor, theta: Tensor) -> Tensor:
    """Of the terms that scvi-tools adds up, each of which is far larger than their sum may be."""
    logs = 2 + (theta + mu).log().abs()
    terms = theta * (logs + theta.log().abs()) + x * (logs + mu.log().abs())
    gammas = torch.lgamma(x + theta).abs() + torch.lgamma(theta).abs() + torch.lgamma(x + 1).abs()
    return ROUNDING * (1 + terms + gammas)


def ours(x: Tensor, m: Tensor, r: Tensor, zero: Tensor | None) -> Tensor:
    return -negative_binomial_nll(m, r, x, zero_logits=zero)[:, None]


def theirs(x: Tensor, m: Tensor, r: Tensor, zero: Tensor | None, eps: float) -> Tensor:
    mu, theta = m.exp(), r.exp()
    if zero is None:
        found: Tensor = density.log_nb_positive(x, mu, theta, eps=eps)
    else:
        found = density.log_zinb_positive(x, mu, theta, zero, eps=eps)
    return found


@pytest.mark.parametrize("inflated", [False, True], ids=["nb", "zinb"])
def test_densities_are_equal_without_eps(inflated: bool) -> None:
    x, m, r, zero = parameters()
    extra = zero if inflated else None
    budget = rounding(x, m.exp(), r.exp()) + ROUNDING * 2 * zero.abs()
    assert ((ours(x, m, r, extra) - theirs(x, m, r, extra, TINY)).abs() <= budget).all()


@pytest.mark.parametrize("inflated", [False, True], ids=["nb", "zinb"])
def test_densities_differ_by_eps_at_most(inflated: bool) -> None:
    x, m, r, zero = parameters()
    extra = zero if inflated else None
    mu, theta = m.exp(), r.exp()
    difference = theirs(x, m, r, extra, EPS) - ours(x, m, r, extra)
    budget = rounding(x, mu, theta) + ROUNDING * 2 * zero.abs()
    assert (difference.abs() <= EPS * (1 + x / mu) + budget).all()
    if not inflated:
        first_order = EPS * (1 + x / mu - (theta + x) / (theta + mu))
        second_order = EPS**2 * (1 / theta + x / mu**2 + (theta + x) / (theta + mu) ** 2)
        assert ((difference - first_order).abs() <= second_order + budget).all()


def test_distributions_have_the_density_and_the_means() -> None:
    x, m, r, zero = parameters()
    mu, theta = m.exp(), r.exp()
    plain = density.NegativeBinomial(mu=mu, theta=theta)
    inflated = density.ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=zero)
    budget = EPS * (1 + x / mu) + rounding(x, mu, theta) + ROUNDING * 2 * zero.abs()
    assert ((plain.log_prob(x) - ours(x, m, r, None)).abs() <= budget).all()
    assert ((inflated.log_prob(x) - ours(x, m, r, zero)).abs() <= budget).all()
    means = [expectation(m, extra, likelihood="negative_binomial") for extra in (None, zero)]
    torch.testing.assert_close(means[0], plain.mean, rtol=1e-14, atol=0)
    assert ((means[1] - inflated.mean).abs() <= ROUNDING * mu).all()  # theirs subtracts the share of zeros from 1


@pytest.mark.parametrize("inflated", [False, True], ids=["nb", "zinb"])
def test_draws_have_the_moments(inflated: bool) -> None:
    """Means, variances and shares of zeros: of ours by theirs' formulas, and beside theirs' draws."""
    m, r = (grid.reshape(-1) for grid in torch.meshgrid(*[torch.linspace(-2, 4, 5).double()] * 2, indexing="ij"))
    zero = torch.linspace(-3, 1, 25).double() if inflated else None
    head = OutputHead(NegativeBinomial(Predicted(), zero_inflation=Predicted() if inflated else None), {})
    given = [value.expand(N, -1) for value in (m, r, zero) if value is not None]
    drawn = head.sample(given, seed=0, start=0, stream=0)
    kind = density.ZeroInflatedNegativeBinomial if inflated else density.NegativeBinomial
    settings = {"zi_logits": zero} if inflated else {}
    law = kind(mu=m.exp(), theta=r.exp(), **settings)
    torch.manual_seed(0)
    other = law.sample((N,))
    for draws in (drawn, other):
        assert ((draws.mean(0) - law.mean).abs() <= 5 * (law.variance / N).sqrt()).all()
        squares = (draws - law.mean).square()
        assert ((squares.mean(0) - law.variance).abs() <= 6 * squares.std(0) / N**0.5).all()
        none = law.log_prob(torch.zeros_like(m)).exp()
        assert (((draws == 0).double().mean(0) - none).abs() <= 5 * (none * (1 - none) / N).sqrt() + 1e-7).all()


def dispersion_of(mode: str) -> Source | ByCondition:
    """Where our spec has what scVI calls a dispersion mode."""
    if mode == "gene":
        return PerDimension("px_r")
    if mode == "gene-cell":
        return Predicted((Linear("decoder.px_r_decoder", HIDDEN, GENES),))
    return ByCondition("px_r")


def scvi_spec(mode: str, inflated: bool) -> ModelSpec:
    """scVI's decoder of one hidden layer, behind an encoder of our own."""
    conditions = {"gene-batch": 2, "gene-label": LABELS}.get(mode, 0)
    layer = "decoder.px_decoder.fc_layers.Layer 0"
    zeros = Predicted((Linear("decoder.px_dropout_decoder", HIDDEN, GENES),)) if inflated else None
    return replace(
        mlp_spec(features=GENES, latent_dim=LATENT),
        decoder=(
            Linear(f"{layer}.0", LATENT + conditions, HIDDEN),
            BatchNorm(f"{layer}.1", HIDDEN, eps=1e-3),
            Activation("relu"),
        ),
        likelihood=NegativeBinomial(
            dispersion_of(mode),
            "softmax",
            "observed",
            4000.0,
            zeros,
            (Linear("decoder.px_scale_decoder.0", HIDDEN, GENES),),
        ),
        condition=Condition(conditions, encoder=False) if conditions else None,
    )


def scvi_module(mode: str, inflated: bool) -> Any:
    """scVI's own, with every number moved from where it starts."""
    torch.manual_seed(1)
    module = scvi.module.VAE(
        n_input=GENES,
        n_batch=2 if mode == "gene-batch" else 0,
        n_labels=LABELS,
        n_hidden=HIDDEN,
        n_latent=LATENT,
        dispersion=mode,
        gene_likelihood="zinb" if inflated else "nb",
    ).eval()
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.add_(0.6 * torch.rand_like(value) - 0.3)
    return module


def adopted(module: Any, mode: str, inflated: bool) -> VAE:
    """Our model with the module's weights, in float64. A label reaches the dispersion alone: its weights are zeros."""
    spec = scvi_spec(mode, inflated)
    weights = dict(random_model(spec).weights)
    weights |= {name: value for name, value in module.state_dict().items() if name in weights}
    if mode == "gene-label":
        first = "decoder.px_decoder.fc_layers.Layer 0.0.weight"
        weights[first] = torch.cat([weights[first], torch.zeros(HIDDEN, LABELS)], 1)
    return VAE(Model(spec, weights), Settings(precision="float64", impl="reference"))


@pytest.mark.parametrize("inflated", [False, True], ids=["nb", "zinb"])
@pytest.mark.parametrize("mode", ["gene", "gene-batch", "gene-label", "gene-cell"])
def test_a_decoder_of_scvi_gives_its_scores(mode: str, inflated: bool) -> None:
    """The module runs in its own float32, which the tolerance is for; no mean is so small that eps would matter."""
    module = scvi_module(mode, inflated)
    model = adopted(module, mode, inflated)
    generator = np.random.default_rng(2)
    x = np.maximum(generator.integers(-20, 60, (50, GENES)), 0).astype(np.float64)
    x[:, 0] += 1  # scVI takes the logarithm of the sum
    code = generator.integers(0, 2 if mode == "gene-batch" else LABELS, (50, 1))
    dim = model.spec.condition.dim if model.spec.condition else 0
    condition = np.eye(dim)[code[:, 0]] if dim else None
    z = torch.from_numpy(model.embed(x, condition=condition)).float()
    library = torch.from_numpy(x).sum(1, keepdim=True).log().float()
    with torch.no_grad():
        made = module.generative(z, library, torch.from_numpy(code), y=torch.from_numpy(code))["px"]
        expected = -made.log_prob(torch.from_numpy(x).float()).sum(1)
    assert made.mu.min() > 1e-2
    np.testing.assert_allclose(model.score(x, condition=condition), expected, rtol=2e-5, atol=1e-4)
    np.testing.assert_allclose(model.reconstruct(x, condition=condition), made.mean, rtol=2e-5, atol=1e-4)
