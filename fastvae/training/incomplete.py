"""A bound for rows with missing entries, so that a model is trained on what is there alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvae.training.module import SpecModule
from fastvae.training.objective import JUDGING_STREAM, latent_noise


@dataclass(frozen=True)
class MIWAE:
    """The importance-weighted bound of the observed entries (Mattei & Frellsen 2019), over ``draws`` draws of z a row.

    log 1/K sum_k p(x_observed|z_k) p(z_k) / q(z_k|filled row), which no missing entry enters: the encoder sees the mean
    over all rows in its place. Entries are to be missing at random. Of complete rows and one draw it is an estimate of
    the ELBO.
    """

    draws: int = 20

    def loss(self, module: SpecModule, x: Tensor, given: Tensor, noise: Tensor, kl_weight: float) -> Tensor:
        """The negative bound of each row; ``kl_weight`` is that of log p(z) - log q(z)."""
        mean, logvar = module.encode(given)
        z = mean + torch.exp(0.5 * logvar) * noise
        features = module.decode(z.flatten(0, 1))
        features = features.reshape(*z.shape[:2], *features.shape[1:])
        seen = ~x.isnan()
        terms = module.log_likelihood_terms(torch.where(seen, x, given), features)
        likelihood = torch.where(seen, terms, 0.0).flatten(2).sum(2)
        ratio = 0.5 * (noise.square() + logvar - z.square()).flatten(2).sum(2)
        return math.log(len(z)) - torch.logsumexp(likelihood + kl_weight * ratio, 0)

    def validate(self, module: SpecModule, rows: Tensor, given: Tensor, *, seed: int) -> tuple[float, str]:
        """The mean bound of ``rows``."""
        noise = latent_noise(module, self.draws * len(rows), seed=seed, start=0, stream=JUDGING_STREAM)
        noise = noise.reshape(self.draws, len(rows), *noise.shape[1:])
        bound = -float(self.loss(module, rows, given, noise, 1.0).double().mean())
        return bound, f"validation bound {bound:.3f}"
