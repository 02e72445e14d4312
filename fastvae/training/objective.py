"""What training minimises, and what it judges a model by.

An objective is an argument of :func:`fastvae.training.fit`. Rows may hold NaN where an entry is missing, if the
objective knows what to do about them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastvae.training.module import SpecModule, kl_to_prior
from fastvae_kernels import elbo_loss, sample_normal

TRAINING_STREAM, JUDGING_STREAM = 0, 1


class Objective(Protocol):
    """A loss, and a number to choose the best epoch by."""

    @property
    def draws(self) -> int:
        """Draws of z for every row and step."""

    def loss(self, module: SpecModule, x: Tensor, given: Tensor, noise: Tensor, kl_weight: float) -> Tensor:
        """What a step minimises: a number for every row, ``[n]``, of which it takes the mean, or that mean.

        Args:
            x: rows ``[n, *input_shape]``, NaN where an entry is missing.
            given: the encoder's input, in the shape of ``x``: without NaN, and masked as the recipe says.
            noise: standard normal, ``[draws, n, *latent_shape]``.
            kl_weight: of the KL term in this epoch.
        """

    def validate(self, module: SpecModule, rows: Tensor, given: Tensor, *, seed: int) -> tuple[float, str]:
        """How good ``module``, in evaluation mode, is for ``rows``; higher is better. And the same as text."""


@dataclass(frozen=True)
class Judgement:
    """Means over rows, in nats: ``elbo = reconstruction - kl``, over ``samples`` draws of z a row."""

    elbo: float
    reconstruction: float
    kl: float
    rows: int
    samples: int


@dataclass(frozen=True)
class ELBO:
    """The evidence lower bound of complete rows, one draw of z a row, its KL term weighted.

    Models are judged by the bound as it is, unweighted, over ``judging_draws`` draws.
    """

    draws: int = 1
    judging_draws: int = 4

    def loss(self, module: SpecModule, x: Tensor, given: Tensor, noise: Tensor, kl_weight: float) -> Tensor:
        """The mean over rows of the negative bound."""
        mean, logvar = module.encode(given)
        features = module.decode(mean + torch.exp(0.5 * logvar) * noise[0])
        variance = module.output_logvar
        likelihood = "bernoulli" if variance is None else "gaussian"
        given_to = features, x, mean, logvar
        return elbo_loss(*given_to, likelihood=likelihood, output_logvar=variance, beta=kl_weight).loss

    def validate(self, module: SpecModule, rows: Tensor, given: Tensor, *, seed: int) -> tuple[float, str]:
        """The mean bound of ``rows``."""
        judgement = judge(module, rows, seed=seed, samples=self.judging_draws)
        return judgement.elbo, f"validation ELBO {judgement.elbo:.3f} (KL {judgement.kl:.3f})"


def judge(module: SpecModule, rows: Tensor, *, seed: int, samples: int) -> Judgement:
    """The ELBO of ``rows`` ``[n, *input_shape]`` with ``samples`` draws of z from every row's posterior."""
    module.eval()
    with torch.no_grad():
        mean, logvar = module.encode(rows)
        likelihood = torch.zeros(len(rows), dtype=torch.float64)
        for k in range(samples):
            noise = latent_noise(module, len(rows), seed=seed, start=k * len(rows), stream=JUDGING_STREAM)
            features = module.decode(mean + torch.exp(0.5 * logvar) * noise)
            likelihood += module.log_likelihood(rows, features).double() / samples
        kl = kl_to_prior(mean, logvar).double()
    reconstruction, kl_mean = likelihood.mean().item(), kl.mean().item()
    return Judgement(reconstruction - kl_mean, reconstruction, kl_mean, len(rows), samples)


def latent_noise(module: SpecModule, n: int, *, seed: int, start: int, stream: int) -> Tensor:
    """Standard normal ``[n, *latent_shape]``, of rows' numbers from ``start``."""
    shape = module.spec.latent_shape
    noise = sample_normal(n, math.prod(shape), seed=seed, start=start, stream=stream)
    return noise.reshape(n, *shape)
