"""Estimates of log p(x), each with its standard error: how far the draws they are made of may be off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastvae import noise
from fastvae.arrays import Array
from fastvae.errors import InputError
from fastvae.running import LogWeights, Moments
from fastvae.runtime import Engine
from fastvae.scoring import draws

BOUNDS = ("iwae", "elbo")
# What a LogLikelihood says of its estimates.
ERRORS = ("standard_error", "effective_sample_size")


@dataclass(frozen=True)
class MeanLogLikelihood:
    """The mean of log p(x) over a data set, in nats.

    Attributes:
        value: the mean of the rows' estimates.
        standard_error: of ``value`` as that of the mean over all data there could be: which rows were in the set, and
            which latents were drawn, both together; NaN of a single row.
        draws_error: of ``value`` as that of the mean over these very rows: which latents were drawn, alone.
    """

    value: float
    standard_error: float
    draws_error: float


@dataclass(frozen=True, slots=True, eq=False)
class LogLikelihood:
    """Estimates of log p(x), each attribute (rows,) in the kind the rows came in.

    Attributes:
        estimate: in nats; in expectation at most log p(x).
        standard_error: of ``estimate``, in nats. It is an estimate itself, which few effective samples make too small.
        effective_sample_size: of the importance weights, from 1 to the number of draws: draws from the exact posterior
            that would be worth as much. Far below the number of draws the encoder misses much of the posterior.
    """

    estimate: Array
    standard_error: Array
    effective_sample_size: Array

    def mean(self) -> MeanLogLikelihood:
        """The mean over rows; NaN if any is. Rows' draws are independent, so their spread has both sources of error.

        Raises:
            InputError: there are no rows.
        """
        estimate, error = (_float64(values) for values in (self.estimate, self.standard_error))
        rows = len(estimate)
        if not rows:
            raise InputError("mean: there are no rows to take the mean of")
        spread = float(estimate.std(ddof=1)) / rows**0.5 if rows > 1 else float("nan")
        return MeanLogLikelihood(float(estimate.mean()), spread, float(np.sqrt(np.square(error).sum())) / rows)


def _float64(values: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    plain = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    return np.asarray(plain, dtype=np.float64)


@dataclass(frozen=True)
class Estimator:
    """What to estimate: the ``bound`` on log p(x), from ``samples`` draws z ~ q(z|x) of ``seed``."""

    bound: str
    samples: int
    seed: int

    def __post_init__(self) -> None:
        if not isinstance(self.bound, str) or self.bound not in BOUNDS:
            raise InputError(f"bound: expected one of {', '.join(map(repr, BOUNDS))}, got {self.bound!r:.80}")
        samples = noise.check_count("samples", self.samples, least=2, most=noise.MAX_SAMPLES)
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "seed", noise.check_seed(self.seed))

    @property
    def verbs(self) -> tuple[str, ...]:
        """The verbs whose plans it runs."""
        return ("encode", "score")


def estimate_block(
    engine: Engine, x: Tensor, estimator: Estimator, *, start: int, condition: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimates of one internal batch, their standard errors and effective sample sizes: each (rows,) in float64.

    Row ``i`` of ``x`` uses the noise of index ``start + i``.
    """
    mean, logvar = engine.encode(x, condition)
    weights, errors, known = LogWeights(len(x), x.device), Moments(len(x), x.device), torch.zeros(())
    for z, kl in draws(engine, mean, logvar, estimator, start=start):
        nll, ratio = engine.nll(z, x, condition=condition).double(), engine.draws.prior.log_ratio(z, mean, logvar)
        weights.add(ratio - nll)
        if engine.spec.prior is None:
            known = kl
            errors.add(nll)
        else:
            errors.add(nll - ratio)
    weights.finish()
    errors.finish()
    if estimator.bound == "iwae":
        return weights.log_mean, weights.standard_error, weights.effective_sample_size
    return -(errors.mean + known), errors.standard_error, weights.effective_sample_size
