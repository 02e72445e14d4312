"""Draws from p(x|z): for each likelihood a function of its parameters and of the noise that a row owns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvae.likelihoods import quantiles
from fastvae.likelihoods.noise import Noise

Draw = Callable[[Mapping[str, Tensor], Noise], Tensor]
LARGEST = torch.finfo(torch.float64).max


@dataclass(frozen=True)
class Recipe:
    """``words`` of noise for each entry, and what makes a draw of them and of the parameters by name."""

    words: int
    draw: Draw


def _bernoulli(p: Mapping[str, Tensor], noise: Noise) -> Tensor:
    """Compared in float32: a narrower uniform may round to 1."""
    logits = p["location"]
    (u,) = noise.uniforms(1, logits)
    return (u < torch.sigmoid(logits.to(torch.promote_types(logits.dtype, u.dtype)))).to(logits.dtype)


def _gaussian(p: Mapping[str, Tensor], noise: Noise) -> Tensor:
    mean = p["location"]
    return mean + noise.normals(mean).to(mean.dtype) * torch.exp(0.5 * p["logvar"].to(mean))


def _laplace(p: Mapping[str, Tensor], noise: Noise) -> Tensor:
    location = p["location"]
    (u,) = noise.uniforms(1, location)
    return _moved(location, quantiles.laplace(u.double()), p["log_scale"])


def _student_t(p: Mapping[str, Tensor], noise: Noise) -> Tensor:
    location = p["location"]
    u, v = noise.uniforms(2, location)
    df = torch.exp(p["log_df"].to(location.device, torch.float64).clamp(-60, 60))
    return _moved(location, quantiles.student_t(u.double(), v.double(), df), p["log_scale"])


def _moved(location: Tensor, draw: Tensor, log_scale: Tensor) -> Tensor:
    """location + scale draw, in location's dtype, of finite size."""
    scale = torch.exp(log_scale.to(location.device, torch.float64)).clamp_max(LARGEST)
    moved = location.double() + (draw * scale).clamp(-LARGEST / 2, LARGEST / 2)
    largest = torch.finfo(location.dtype).max
    return moved.clamp(-largest, largest).to(location.dtype)


def _continuous_bernoulli(p: Mapping[str, Tensor], noise: Noise) -> Tensor:
    logits = p["location"]
    (u,) = noise.uniforms(1, logits)
    return quantiles.continuous_bernoulli(u.double(), logits.double()).to(logits.dtype)


def _poisson(p: Mapping[str, Tensor], noise: Noise) -> Tensor:
    log_rate = p["location"]
    u, extra = noise.uniforms(2, log_rate)
    return _counts(p, quantiles.poisson(u.double(), _rate(log_rate)), extra)


def _negative_binomial(p: Mapping[str, Tensor], noise: Noise) -> Tensor:
    """A Poisson whose rate is drawn from a gamma of shape θ and mean μ."""
    log_mean = p["location"]
    u, extra, *v = noise.uniforms(8, log_mean)
    log_dispersion = p["log_dispersion"].to(log_mean.device, torch.float64).clamp(-60, 60)
    dispersion = torch.exp(log_dispersion).expand(log_mean.shape)
    drawn = quantiles.log_gamma(dispersion, [of_gamma.double() for of_gamma in v])
    log_gamma = drawn - torch.log(dispersion.clamp(1e-8, quantiles.LARGE_SHAPE))
    return _counts(p, quantiles.poisson(u.double(), _rate(log_mean.double() + log_gamma)), extra)


def _rate(log_rate: Tensor) -> Tensor:
    return torch.exp(log_rate.double()).clamp_max(1e300)


def _counts(p: Mapping[str, Tensor], counts: Tensor, extra: Tensor) -> Tensor:
    """``counts``, of at most the largest finite number, 0 where the uniform ``extra`` says so."""
    dtype = p["location"].dtype
    if "zero_logits" in p:
        counts = torch.where(extra < torch.sigmoid(p["zero_logits"].double()), 0.0, counts)
    return counts.clamp_max(torch.finfo(dtype).max).to(dtype)


def _categorical(p: Mapping[str, Tensor], noise: Noise) -> Tensor:
    """One-hot rows: the first category whose cumulative probability is above a row's first uniform."""
    logits = p["location"]
    (u,) = noise.uniforms(1, logits[:, :1])
    return torch.nn.functional.one_hot(_categories(logits, u)[:, 0], logits.shape[1]).to(logits.dtype)


def _categories(logits: Tensor, u: Tensor) -> Tensor:
    """For uniforms (rows, n) categories (rows, n)."""
    shares = torch.softmax(logits.double(), 1).cumsum(1)
    return torch.searchsorted(shares, u.double() * shares[:, -1:], right=True).clamp_max(logits.shape[1] - 1)


def multinomial(total: int) -> Recipe:
    """``total`` draws of a category, counted; the noise is the total's, not the entries'."""

    def draw(p: Mapping[str, Tensor], noise: Noise) -> Tensor:
        logits = p["location"]
        (u,) = noise.uniforms(1, logits[:, :1].expand(-1, total))
        counts = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device)
        counts.scatter_add_(1, _categories(logits, u), torch.ones_like(u, dtype=torch.float64))
        return counts.to(logits.dtype)

    return Recipe(0, draw)


RECIPES: dict[str, Recipe] = {
    "bernoulli": Recipe(1, _bernoulli),
    "gaussian_fixed": Recipe(1, _gaussian),
    "gaussian_per_dimension": Recipe(1, _gaussian),
    "gaussian_predicted": Recipe(1, _gaussian),
    "laplace": Recipe(1, _laplace),
    "student_t": Recipe(2, _student_t),
    "continuous_bernoulli": Recipe(1, _continuous_bernoulli),
    "poisson": Recipe(2, _poisson),
    "negative_binomial": Recipe(8, _negative_binomial),
    "categorical": Recipe(1, _categorical),
}
