"""Ops on shapes that nobody chose, none of their sizes too small to be zero, within bounds derived by hand.

A bound allows 2**-23, two roundings to nearest, for every operation; sums may run in any order.
"""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fastvae_kernels
from fastvae_kernels import implementations, split_head
from fastvae_kernels.testing import NORMAL_EPSILONS, oracle, oracle_normals, outputs
from tests.kernels.support import DEVICE, EPS32

ROWS = st.integers(0, 9)
INPUTS = st.integers(0, 40)
OUTPUTS = st.integers(0, 20)
LATENT = st.integers(0, 9)
SAMPLES = st.one_of(st.none(), st.integers(0, 3))
SEED = st.integers(0, 2**64 - 1)
START = st.integers(0, 2**63 - 10)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE)


def weight_of(outputs_: int, inputs: int) -> Tensor:
    return normal(outputs_, inputs) * max(inputs, 1) ** -0.5


def terms(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The sum of the sizes of what x @ weight.T + bias adds."""
    return x.double().abs() @ weight.double().abs().T + bias.double().abs()


def product_error(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A bound on the error of x @ weight.T + bias: every term meets at most its product and in + 1 sums."""
    return (x.shape[1] + 2) * EPS32 * terms(x, weight, bias)


def kl_error(mean: Tensor, logvar: Tensor, mean_error: Tensor | float, logvar_error: Tensor | float) -> Tensor:
    """A bound on KL's: its own operations, and the slopes |m| and ½ |exp v - 1| with respect to m and v."""
    size = 0.5 * (1 + logvar.abs() + logvar.exp() + mean**2)
    slopes = (mean.abs() + mean_error) * mean_error + (logvar.exp() + 1) * logvar_error
    return ((mean.shape[1] + 8) * EPS32 * size + slopes).sum(1)


def bernoulli_error(logits: Tensor, data: Tensor, logits_error: Tensor | float = 0.0) -> Tensor:
    """A bound on the score's: six operations a term, their sum, and a slope |sigmoid(l) - x| of at most 1."""
    size = logits.abs() * (1 + data) + 1
    return ((logits.shape[1] + 8) * EPS32 * size + logits_error).sum(1)


def head_arguments(n: int, inputs: int, latent: int, layout: str) -> dict[str, Any]:
    weights = split_head(weight_of(2 * latent, inputs), layout)
    biases = split_head(normal(2 * latent), layout)
    names = ("mean_weight", "logvar_weight", "mean_bias", "logvar_bias")
    return {"x": normal(n, inputs), **dict(zip(names, (*weights, *biases), strict=True))}


def head_errors(head: dict[str, Any], impl: str, **where: Any) -> tuple[Tensor, Tensor, Tensor]:
    """z in float64, and bounds on the errors of z and kl.

    exp magnifies the error e of logvar: exp(e / 2) - 1 is at most e. Its own rounding, the product with the noise
    and the sum with the mean are four operations; the noise is off by as much as it says.
    """
    z, _, mean, logvar = oracle("gaussian_head", {**head, **where, "posterior": True})
    mean_error = product_error(head["x"], head["mean_weight"], head["mean_bias"])
    logvar_error = product_error(head["x"], head["logvar_weight"], head["logvar_bias"])
    drawn = (z - mean).abs()
    units = 4 + (NORMAL_EPSILONS if impl == "triton" else 0.5)
    z_error = mean_error + drawn * (logvar_error + units * EPS32) + 4 * EPS32 * mean.abs()
    return z, z_error, kl_error(mean, logvar, mean_error, logvar_error)


@pytest.mark.parametrize("impl", implementations("reparameterize"))
@given(n=ROWS, dim=INPUTS, samples=SAMPLES, start=START, seed=SEED)
def test_reparameterize(impl: str, n: int, dim: int, samples: int | None, start: int, seed: int) -> None:
    """z is the stated function of `sample_normal` in the same implementation, to its own three roundings."""
    mean = torch.linspace(-3, 3, n * dim, device=DEVICE).view(n, dim)
    logvar = -0.7 * mean
    where = {"seed": seed, "start": start, "samples": samples, "impl": impl}
    z, kl = fastvae_kernels.reparameterize(mean, logvar, **where)
    noise = fastvae_kernels.sample_normal(n, dim, **where, device=DEVICE).double()
    drawn = noise * torch.exp(logvar.double() / 2)
    assert z.shape == drawn.shape
    # exp to 2 units, its product with the noise, the sum: 4 units of the two terms' size.
    assert ((z.double() - (mean.double() + drawn)).abs() <= 4 * EPS32 * (mean.double().abs() + drawn.abs())).all()
    exact = 0.5 * (torch.expm1(logvar.double()) - logvar.double() + mean.double() ** 2).sum(1)
    assert ((kl.double() - exact).abs() <= kl_error(mean.double(), logvar.double(), 0.0, 0.0)).all()


@pytest.mark.parametrize("impl", implementations("linear"))
@given(n=ROWS, inputs=INPUTS, outputs_=OUTPUTS, residual=st.booleans())
def test_linear(impl: str, n: int, inputs: int, outputs_: int, residual: bool) -> None:
    x, weight, bias = normal(n, inputs), normal(outputs_, inputs), normal(outputs_)
    arguments = {"x": x, "weight": weight, "bias": bias, "activation": "silu"}
    added = normal(n, outputs_) if residual else None
    y = fastvae_kernels.linear(**arguments, residual=added, impl=impl)
    exact = oracle("linear", {**arguments, "residual": added})
    assert y.shape == (n, outputs_)
    # |silu'| <= 1.1; silu's own roundings: 3 units; a last sum.
    last = 0.0 if added is None else EPS32 * added.double().abs()
    bound = 1.1 * (inputs + 6) * EPS32 * terms(x, weight, bias) + last + 2.0**-126
    assert ((y.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("impl", implementations("linear_prior"))
@given(n=ROWS, inputs=INPUTS, outputs_=OUTPUTS, start=START, seed=SEED)
def test_linear_prior(impl: str, n: int, inputs: int, outputs_: int, start: int, seed: int) -> None:
    weight, bias = normal(outputs_, inputs), normal(outputs_)
    y = fastvae_kernels.linear_prior(n, weight, bias, seed=seed, start=start, impl=impl)
    z = oracle_normals(n, inputs, seed=seed, start=start).to(DEVICE)
    exact = z @ weight.double().T + bias.double()
    assert y.shape == (n, outputs_)
    drawn = NORMAL_EPSILONS * EPS32 * terms(z, weight, torch.zeros_like(bias))
    assert ((y.double() - exact).abs() <= product_error(z, weight, bias) + drawn).all()


@pytest.mark.parametrize("impl", implementations("gaussian_head"))
@given(
    n=ROWS,
    inputs=INPUTS,
    latent=LATENT,
    samples=SAMPLES,
    seed=SEED,
    start=START,
    layout=st.sampled_from(("chunked", "interleaved")),
)
def test_gaussian_head(
    impl: str, n: int, inputs: int, latent: int, samples: int | None, seed: int, start: int, layout: str
) -> None:
    head = head_arguments(n, inputs, latent, layout)
    where = {"seed": seed, "start": start, "samples": samples}
    z, kl = fastvae_kernels.gaussian_head(**head, **where, impl=impl)
    exact_z, z_error, kl_bound = head_errors(head, impl, **where)
    exact_kl = outputs(oracle("gaussian_head", head))[1]
    assert z.shape == exact_z.shape
    assert kl.shape == (n,)
    assert ((z.double() - exact_z).abs() <= z_error).all()
    assert ((kl.double() - exact_kl).abs() <= kl_bound).all()


@pytest.mark.parametrize("impl", implementations("bottleneck"))
@given(n=ROWS, inputs=INPUTS, latent=LATENT, outputs_=OUTPUTS, seed=st.one_of(st.none(), SEED))
def test_bottleneck(impl: str, n: int, inputs: int, latent: int, outputs_: int, seed: int | None) -> None:
    head = head_arguments(n, inputs, latent, "chunked")
    weight, bias = weight_of(outputs_, latent), normal(outputs_)
    settings = {**head, "weight": weight, "bias": bias, "activation": "silu", "seed": seed}
    y, kl = fastvae_kernels.bottleneck(**settings, impl=impl)
    exact_y, exact_kl = oracle("bottleneck", settings)
    z, z_error, kl_bound = head_errors(head, impl, seed=seed)
    assert y.shape == (n, outputs_)
    # The error of z through the product, then as in `test_linear`.
    size = terms(z.abs() + z_error, weight, bias)
    bound = 1.1 * (z_error @ weight.double().abs().T + (latent + 5) * EPS32 * size) + 2.0**-126
    assert ((y.double() - exact_y).abs() <= bound).all()
    assert ((kl.double() - exact_kl).abs() <= kl_bound).all()


@pytest.mark.parametrize("impl", implementations("linear_score"))
@given(n=ROWS, samples=st.integers(0, 3), inputs=INPUTS, outputs_=OUTPUTS)
def test_linear_score(impl: str, n: int, samples: int, inputs: int, outputs_: int) -> None:
    x, weight, bias = normal(samples * n, inputs), weight_of(outputs_, inputs), normal(outputs_)
    data = torch.rand(n, outputs_, device=DEVICE)
    score = fastvae_kernels.linear_score(x, weight, bias, data, impl=impl)
    logits = x.double() @ weight.double().T + bias.double()
    repeated = data.double().repeat(samples, 1)
    exact = (torch.logaddexp(logits, torch.zeros_like(logits)) - repeated * logits).sum(1)
    assert score.shape == (samples * n,)
    bound = bernoulli_error(logits, repeated, product_error(x, weight, bias))
    assert ((score.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("impl", implementations("elbo"))
@given(n=ROWS, samples=st.integers(0, 3), outputs_=INPUTS, latent=LATENT)
def test_elbo(impl: str, n: int, samples: int, outputs_: int, latent: int) -> None:
    output, data = normal(samples * n, outputs_), torch.rand(n, outputs_, device=DEVICE)
    mean, logvar = normal(n, latent), normal(n, latent)
    negative_elbo, reconstruction, kl = fastvae_kernels.elbo(output, data, mean, logvar, impl=impl)
    logits, repeated = output.double(), data.double().repeat(samples, 1)
    exact = (torch.logaddexp(logits, torch.zeros_like(logits)) - repeated * logits).sum(1)
    exact_kl = 0.5 * (torch.expm1(logvar.double()) - logvar.double() + mean.double() ** 2).sum(1)
    bound, kl_bound = bernoulli_error(logits, repeated), kl_error(mean.double(), logvar.double(), 0.0, 0.0)
    both = exact + exact_kl.repeat(samples)
    assert ((reconstruction.double() - exact).abs() <= bound).all()
    assert ((kl.double() - exact_kl).abs() <= kl_bound).all()
    assert ((negative_elbo.double() - both).abs() <= bound + kl_bound.repeat(samples) + EPS32 * both.abs()).all()


@pytest.mark.parametrize("impl", implementations("quantize_rows"))
@given(n=ROWS, k=INPUTS, exponent=st.integers(-30, 30), dtype=st.sampled_from((torch.float32, torch.bfloat16)))
def test_quantize_rows(impl: str, n: int, k: int, exponent: int, dtype: torch.dtype) -> None:
    """Every element is as near x / scale as e4m3 comes, and a row's largest is 448."""
    x = (normal(n, k) * 2.0**exponent).to(dtype)
    q, scale = fastvae_kernels.quantize_rows(x, impl=impl)
    assert q.shape == (n, k)
    if not k:
        assert torch.equal(scale, torch.ones(n, device=DEVICE))
        return
    wide = x.double()
    largest = wide.abs().amax(1)
    assert ((scale.double() - largest / 448).abs() <= EPS32 * largest / 448).all()
    assert (q.double().abs().amax(1) == 448).all()
    quotient = (wide / scale.double()[:, None]).clamp(-448, 448)
    # Half the spacing of e4m3, 2**-9 at its smallest; 2**-20 for a quotient rounded to float32 first.
    spacing = torch.ldexp(torch.ones_like(quotient), (torch.frexp(quotient)[1] - 4).clamp_min(-9))
    assert ((q.double() - quotient).abs() <= spacing / 2 * (1 + 2.0**-20)).all()
