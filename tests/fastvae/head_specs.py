"""Small models with every likelihood beyond Bernoulli and Gaussian, their data, and their densities by SciPy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, log_softmax, softmax

from fastvae.api import VAE
from fastvae.heads import (
    Bernoulli,
    ByCondition,
    Categorical,
    ContinuousBernoulli,
    Fixed,
    FixedGaussian,
    GaussianHead,
    Laplace,
    Likelihood,
    Mixed,
    Multinomial,
    NegativeBinomial,
    PerDimension,
    Poisson,
    Predicted,
    PredictedGaussian,
    Segment,
    StudentT,
)
from fastvae.heads.sources import Form
from fastvae.layers import Activation, Conv2d, Linear, Reshape
from fastvae.spec import Condition, ModelSpec
from tests.fastvae.support import mlp_spec, vae

OUT = (Linear("d.1", 8, 6),)


def predicted(name: str, form: Form = "log", eps: float = 0.0) -> Predicted:
    """From the eight features of :func:`mlp_spec`'s decoder."""
    return Predicted((Linear(name, 8, 6),), form, eps)


def own(likelihood: Likelihood, condition: Condition | None = None) -> ModelSpec:
    """A model whose likelihood has stacks of its own, over eight features."""
    spec = mlp_spec(condition=condition)
    return replace(spec, decoder=spec.decoder[:-1], likelihood=likelihood)


def chunked(likelihood: Likelihood, features: int) -> ModelSpec:
    """A model whose decoder makes ``features``, of which the likelihood takes its share each."""
    spec = mlp_spec()
    return replace(spec, decoder=(*spec.decoder[:-1], Linear("d.1", 8, features)), likelihood=likelihood)


MIXED = Mixed(
    (
        Segment(1, FixedGaussian(0.3), (Activation("tanh"),)),
        Segment(3, Categorical()),
        Segment(2, Laplace(Predicted((), "softplus", 1e-3))),
        Segment(1, Bernoulli()),
        Segment(1, StudentT(Fixed(3.0), PerDimension("mixed.scale"))),
        Segment(2, NegativeBinomial(PerDimension("mixed.dispersion"))),
        Segment(2, Categorical()),
        Segment(1, ContinuousBernoulli()),
        Segment(1, PredictedGaussian(GaussianHead("chunked"))),
        Segment(1, Poisson("softplus")),
    )
)
MIXED_COLUMNS = sum(segment.columns for segment in MIXED.segments)
MIXED_FEATURES = sum(segment.features for segment in MIXED.segments)


def mixed_spec() -> ModelSpec:
    spec = mlp_spec(features=MIXED_COLUMNS)
    return replace(spec, decoder=(*spec.decoder[:-1], Linear("d.1", 8, MIXED_FEATURES)), likelihood=MIXED)


def image_spec() -> ModelSpec:
    """Images of two channels whose decoder makes four: locations and scales."""
    spec = mlp_spec(features=18)
    return replace(
        spec,
        input_shape=(2, 3, 3),
        encoder=(Conv2d("e", 2, 2, (3, 3), padding=(1, 1)), Activation("tanh"), Reshape((18,)), Linear("e.1", 18, 8)),
        decoder=(Linear("d", 3, 36), Reshape((4, 3, 3))),
        likelihood=Laplace(Predicted()),
    )


HEADS: dict[str, ModelSpec] = {
    "laplace": mlp_spec(Laplace(Fixed(0.7))),
    "laplace_per_dimension": mlp_spec(Laplace(PerDimension("scale", "softplus", 0.01))),
    "laplace_predicted": own(Laplace(predicted("s"), OUT)),
    "laplace_image": image_spec(),
    "student_t": mlp_spec(StudentT(Fixed(4.0))),
    "student_t_per_dimension": mlp_spec(StudentT(PerDimension("df"), PerDimension("scale"))),
    "student_t_predicted": chunked(StudentT(PerDimension("df", "softplus", 1.0), Predicted()), 12),
    "continuous_bernoulli": mlp_spec(ContinuousBernoulli()),
    "poisson": mlp_spec(Poisson()),
    "poisson_softmax": mlp_spec(Poisson("softmax", "fixed", 30.0)),
    "zip": own(Poisson("softmax", "observed", 40.0, predicted("zero"), OUT)),
    "nb": mlp_spec(NegativeBinomial(PerDimension("theta"), "softplus")),
    "nb_cell": own(NegativeBinomial(predicted("theta", "softplus", 1e-4), "softmax", "observed", 50.0, None, OUT)),
    "nb_batch": own(NegativeBinomial(ByCondition("theta"), location=OUT), Condition(2)),
    "zinb": own(NegativeBinomial(PerDimension("theta"), "softmax", "observed", 60.0, predicted("zero"), OUT)),
    "multinomial": mlp_spec(Multinomial(library_size=20.0)),
    "categorical": mlp_spec(Categorical()),
    "mixed": mixed_spec(),
}

OBSERVED = ("zip", "nb_cell", "zinb", "multinomial")


def one_hot(generator: np.random.Generator, rows: int, size: int) -> NDArray[np.float64]:
    return np.eye(size)[generator.integers(0, size, rows)]


def rows_of(spec: ModelSpec, rows: int, seed: int = 0) -> NDArray[np.float64]:
    """Data that the likelihood takes."""
    generator = np.random.default_rng(seed)
    kind = spec.likelihood.kind
    if isinstance(spec.likelihood, Mixed):
        parts = [_columns(segment.likelihood.kind, generator, rows, segment.columns) for segment in MIXED.segments]
        return np.concatenate(parts, 1)
    return _columns(kind, generator, rows, int(np.prod(spec.input_shape))).reshape(rows, *spec.input_shape)


def _columns(kind: str, generator: np.random.Generator, rows: int, size: int) -> NDArray[np.float64]:
    if kind == "categorical":
        return one_hot(generator, rows, size)
    if kind in ("poisson", "negative_binomial", "multinomial"):
        return np.maximum(generator.integers(-4, 20, (rows, size)), 0).astype(np.float64)
    if kind in ("bernoulli", "continuous_bernoulli"):
        return generator.random((rows, size))
    return generator.normal(size=(rows, size)) * 2


def seen(name: str, rows: int) -> NDArray[np.bool_]:
    """Which entries of the rows are seen: one-hot columns all together."""
    spec = HEADS[name]
    shown = np.random.default_rng(3).random((rows, *spec.input_shape)) < 0.6
    if name == "categorical":
        shown[:] = shown[:, :1]
    if name == "mixed":
        for segment, (low, high), _ in MIXED.spans():
            if segment.likelihood.kind == "categorical":
                shown[:, low:high] = shown[:, low : low + 1]
    return shown


def exact(name: str, **settings: Any) -> VAE:
    return vae(HEADS[name], precision="float64", impl="reference", **settings)


def log_density(kind: str, p: dict[str, Any], x: Any) -> Any:
    """log p(x|z) of each entry; of each row for what is one event."""
    location = p["location"]
    if kind == "laplace":
        return stats.laplace.logpdf(x, location, np.exp(p["log_scale"]))
    if kind == "student_t":
        return stats.t.logpdf(x, np.exp(p["log_df"]), location, np.exp(p["log_scale"]))
    if kind == "continuous_bernoulli":
        return location * x + np.log(location / np.expm1(location))
    if kind == "categorical":
        return (x * log_softmax(location, 1)).sum(1)
    if kind == "multinomial":
        return stats.multinomial.logpmf(x, x.sum(1).astype(int), softmax(location, 1))
    mean = np.exp(location)
    if kind == "poisson":
        logs = stats.poisson.logpmf(x, mean)
    elif kind == "negative_binomial":
        theta = np.exp(p["log_dispersion"])
        logs = stats.nbinom.logpmf(x, theta, theta / (theta + mean))
    elif kind == "bernoulli":
        return x * np.log(expit(location)) + (1 - x) * np.log(expit(-location))
    else:
        return stats.norm.logpdf(x, location, np.exp(p["logvar"] / 2))
    if "zero_logits" in p:
        extra = expit(p["zero_logits"])
        logs = np.log(extra * (x == 0) + (1 - extra) * np.exp(logs))
    return logs
