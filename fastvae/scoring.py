"""Scores per row: how surprising the model finds it. Higher is more anomalous, always.

``reconstruction`` is -log p(x|z), the model's own likelihood; ``kl`` is KL(q(z|x) || p(z)); ``elbo`` their sum, the
negative evidence lower bound (Kingma & Welling 2014, with beta of Higgins et al. 2017); ``iwae`` the tighter
importance-weighted bound (Burda et al. 2016); ``mse`` and ``l2`` are distances to the reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from numbers import Real
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fastvae import noise
from fastvae.errors import InputError
from fastvae.priors import DRAWS
from fastvae.running import LogWeights, Moments
from fastvae.runtime import Engine

# The verb whose plan gives each metric at z = posterior mean, and the one that scores drawn latents.
AT_MEAN = {"reconstruction": "elbo", "kl": "kl", "elbo": "elbo", "mse": "distance", "l2": "distance"}
# Plans that hold the divergence in closed form.
WITH_DIVERGENCE = ("elbo", "kl")
OF_DRAWS = {
    "reconstruction": "score",
    "elbo": "score",
    "iwae": "score",
    "mse": "squared_error",
    "l2": "squared_error",
}
METRICS = ("reconstruction", "kl", "elbo", "iwae", "mse", "l2")


@dataclass(frozen=True)
class Metric:
    """What to compute: ``samples`` is None for z = mean, else the number of draws z ~ q(z|x) of ``seed``.

    ``iwae`` always draws: once where ``samples`` is None. ``closed`` says whether the divergence from the model's prior
    has a closed form; where it has none, ``kl`` and ``elbo`` estimate it by draws, DRAWS if ``samples`` is None.
    """

    name: str
    samples: int | None
    seed: int
    beta: float = 1.0
    closed: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in METRICS:
            raise InputError(f"metric: expected one of {', '.join(map(repr, METRICS))}, got {self.name!r:.80}")
        object.__setattr__(self, "seed", noise.check_seed(self.seed))
        samples = 1 if self.samples is None and self.name == "iwae" else self.samples
        if samples is not None:
            samples = noise.check_count("samples", samples, least=1, most=noise.MAX_SAMPLES)
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "beta", _finite_beta(self.beta))

    @cached_property
    def verbs(self) -> tuple[str, ...]:
        """The verbs whose plans it runs."""
        if self.at_mean:
            return (AT_MEAN[self.name],)
        return ("encode",) if self.name == "kl" else ("encode", OF_DRAWS[self.name])

    @property
    def needs_variance(self) -> bool:
        """Whether it has no finite value where the posterior is a point."""
        return self.name in ("kl", "elbo", "iwae")

    @cached_property
    def at_mean(self) -> bool:
        """Whether one plan gives it, because no z is drawn; a divergence in closed form never needs one."""
        if not self.closed and AT_MEAN.get(self.name) in WITH_DIVERGENCE:
            return False
        return self.samples is None or self.name == "kl"

    @property
    def samples_divergence(self) -> bool:
        """Whether it holds a divergence from the prior that is estimated by draws."""
        return not self.closed and self.name in ("kl", "elbo")


def _finite_beta(beta: Any) -> float:
    """``beta``, any real number that a float can hold, as one; InputError otherwise."""
    try:
        value = float(beta) if isinstance(beta, Real) else math.nan
    except OverflowError:
        value = math.inf
    if not 0 <= value < math.inf:
        raise InputError(f"beta: expected a finite number >= 0, got {beta!r:.80}")
    return value


@lru_cache(maxsize=64, typed=True)
def _known(name: str, samples: int | None, seed: int, beta: float, closed: bool) -> Metric:
    return Metric(name, samples, seed, beta, closed)


def metric_of(name: str, samples: int | None, seed: int, beta: float, *, closed: bool = True) -> Metric:
    """The Metric, which is checked once for callers that ask for the same again and again.

    Raises:
        InputError: an argument out of range.
    """
    try:
        return _known(name, samples, seed, beta, closed)
    except TypeError:  # something that cannot be kept, and is no metric either: say what is wrong with it
        return Metric(name, samples, seed, beta, closed)


def score_block(engine: Engine, x: Tensor, metric: Metric, *, start: int, condition: Tensor | None = None) -> Tensor:
    """Scores of one internal batch: (rows,) in nats, or in data units for ``mse`` (squared) and ``l2``.

    Row ``i`` of ``x`` uses the noise of index ``start + i``.
    """
    if metric.at_mean:
        result: Tensor = from_parts(_parts_at_mean(engine, x, metric, condition), x[:1].numel(), metric)
        return result
    mean, logvar = engine.encode(x, condition)
    if metric.name == "iwae":
        return -_importance_bound(engine, x, mean, logvar, metric, start=start, condition=condition)
    if metric.samples_divergence:
        return _sampled_bound(engine, x, mean, logvar, metric, start=start, condition=condition)
    if metric.name == "reconstruction" and metric.samples is None:
        return engine.nll(mean[None], x, condition=condition)[0]
    distance = engine.nll if "score" in metric.verbs else engine.squared_error
    errors, known = Moments(len(x), x.device), torch.zeros(())
    for z, kl in draws(engine, mean, logvar, metric, start=start):
        values = distance(z, x, condition=condition).double()
        errors.add(values.sqrt() if metric.name == "l2" else values)
        known = kl
    errors.finish()
    return errors.mean if metric.name == "l2" else from_parts((errors.mean, known), x[:1].numel(), metric)


def _parts_at_mean(engine: Engine, x: Tensor, metric: Metric, condition: Tensor | None) -> tuple[Tensor, ...]:
    if metric.name == "kl":
        return (engine.kl(x, condition),)
    return engine.elbo(x, condition) if metric.verbs == ("elbo",) else (engine.distance(x, condition),)


def from_parts(parts: Sequence[Any], size: int, metric: Metric) -> Any:
    """The metric, (rows,), from what its plan gives: its error, and the divergence after it where there is one.

    ``parts`` are tensors or NumPy arrays; ``size`` is the number of entries of a row.
    """
    error = parts[0]
    if metric.name == "elbo":
        if metric.beta == 1.0:  # the sum of two rounds as its float64 would
            return error + parts[1]
        kl = parts[1].double() if isinstance(parts[1], Tensor) else parts[1].astype(np.float64)
        return error + metric.beta * kl
    if metric.name == "mse":
        return error / size if size else error
    if metric.name == "l2":
        # PyTorch's float32 root is not always the nearest, NumPy's is; both are from float64.
        return error.double().sqrt() if isinstance(error, Tensor) else np.sqrt(error)
    return error


def _importance_bound(
    engine: Engine, x: Tensor, mean: Tensor, logvar: Tensor, metric: Metric, *, start: int, condition: Tensor | None
) -> Tensor:
    """log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x)."""
    weights = LogWeights(len(x), x.device)
    for z, _ in draws(engine, mean, logvar, metric, start=start):
        weights.add(engine.draws.prior.log_ratio(z, mean, logvar) - engine.nll(z, x, condition=condition).double())
    weights.finish()
    return weights.log_mean


def _sampled_bound(
    engine: Engine, x: Tensor, mean: Tensor, logvar: Tensor, metric: Metric, *, start: int, condition: Tensor | None
) -> Tensor:
    """``kl`` or ``elbo`` whose divergence has no closed form: the mean of log q(z|x) - log p(z) stands for it."""
    drawn = metric if metric.samples else replace(metric, samples=DRAWS)
    errors, divergences = Moments(len(x), x.device), Moments(len(x), x.device)
    for z, _ in draws(engine, mean, logvar, drawn, start=start):
        divergences.add(-engine.draws.prior.log_ratio(z, mean, logvar))
        if metric.name == "elbo" and metric.samples:
            errors.add(engine.nll(z, x, condition=condition))
    divergences.finish()
    if metric.name == "kl":
        return divergences.mean
    if metric.samples is None:
        errors.add(engine.nll(mean[None], x, condition=condition))
    errors.finish()
    return errors.mean + metric.beta * divergences.mean


def divergence(engine: Engine, mean: Tensor, logvar: Tensor, start: int) -> Tensor:
    """KL(q(z|x) || p(z)), (rows,): in closed form, or from DRAWS draws of the seed 0."""
    if engine.spec.prior is None:
        return engine.draws.from_posterior(mean, logvar, seed=0, start=0, stream=noise.POSTERIOR, samples=0)[1]
    kl = Moments(len(mean), mean.device)
    for z, _ in draws(engine, mean, logvar, Metric("kl", DRAWS, 0, closed=False), start=start):
        kl.add(-engine.draws.prior.log_ratio(z, mean, logvar))
    kl.finish()
    return kl.mean


class Sampling(Protocol):
    """How to draw: ``samples`` latents a row with the noise of ``seed``, for the plan of the last of ``verbs``."""

    @property
    def samples(self) -> int | None:
        """Draws a row; None is one."""

    @property
    def seed(self) -> int:
        """An unsigned 64-bit integer."""

    @property
    def verbs(self) -> tuple[str, ...]:
        """The verbs whose plans are run."""


def draws(
    engine: Engine, mean: Tensor, logvar: Tensor, sampling: Sampling, *, start: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draws from q(z|x) in chunks that fit an internal batch: z (draws, rows, *latent_shape), KL(q || N(0, I)) (rows,).

    Row ``i`` of draw ``k`` has the noise of index ``start + i`` in the stream ``k``, whatever the chunks.
    """
    total = sampling.samples or 1
    size = max(1, engine.batches.rows(sampling.verbs[-1]) // max(len(mean), 1))
    for first in range(0, total, size):
        where: dict[str, int] = {"seed": sampling.seed, "start": start, "stream": noise.POSTERIOR + first}
        z, kl = engine.draws.from_posterior(mean, logvar, **where, samples=min(size, total - first))
        yield z, kl.double()
