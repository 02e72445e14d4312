"""Latents that are drawn: from the prior, from what samples are made of, and from posteriors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastvae_kernels
from fastvae import noise
from fastvae.heads import Prior
from fastvae.priors import Mixture, StandardNormal, mixture
from fastvae.runtime.batches import Batches
from fastvae.runtime.batching import TILE, blocks, padded
from fastvae.runtime.executors import Executors
from fastvae.runtime.resolved import Resolved
from fastvae.runtime.resources import Resources
from fastvae.runtime.runner import Runner


class Draws:
    """The draws of one engine: the noise of a row is a function of the seed, the row's index and the stream."""

    def __init__(self, executors: Executors, runner: Runner, batches: Batches, how: Resolved, held: Resources) -> None:
        self._executors, self._runner, self._batches = executors, runner, batches
        self._how, self._held = how, held
        self._spec = executors.model.spec

    @property
    def prior(self) -> StandardNormal | Mixture:
        """The prior of the latents."""
        return StandardNormal() if self._spec.prior is None else self._mixture(self._spec.prior)

    def for_samples(self, rows: int, *, seed: int, start: int) -> Tensor:
        """z of the indices start to start + rows as samples are made of: from the sampler, if one was fitted.

        (rows, *latent_shape).
        """
        return self._of(self._spec.sampler or self._spec.prior, rows, seed, start, noise.PRIOR)

    def from_prior(self, rows: int, *, seed: int, start: int, stream: int = noise.PRIOR) -> Tensor:
        """z from the prior, of the indices start to start + rows: (rows, *latent_shape)."""
        return self._of(self._spec.prior, rows, seed, start, stream)

    def from_posterior(
        self, mean: Tensor, logvar: Tensor, *, seed: int, start: int, stream: int, samples: int
    ) -> tuple[Tensor, Tensor]:
        """Draws from q and its KL divergence to N(0, I): z (samples, rows, *latent_shape), kl (rows,).

        Row ``i`` of draw ``k`` uses the noise of index ``start + i`` in ``stream + k``.
        """
        shape = (samples, len(mean), *mean.shape[1:])
        mean, logvar = mean.flatten(1), logvar.flatten(1)

        def draw(mean: Tensor, logvar: Tensor, start: int) -> tuple[Tensor, Tensor]:
            return fastvae_kernels.reparameterize(
                mean, logvar, seed=seed, start=start, stream=stream, samples=samples, impl=self._how.op_impl
            )

        if not self._how.batch_invariant:
            z, kl = draw(mean, logvar, start)
            return z.reshape(shape), kl
        parts = [
            draw(padded(mean[low:high], TILE), padded(logvar[low:high], TILE), start + low)
            for low, high in blocks(max(len(mean), 1), TILE)
        ]
        z = torch.cat([z for z, _ in parts], dim=1)[:, : len(mean)]
        return z.reshape(shape), torch.cat([kl for _, kl in parts])[: len(mean)]

    def _of(self, prior: Prior | None, rows: int, seed: int, start: int, stream: int) -> Tensor:
        where: dict[str, Any] = {"seed": seed, "start": start, "device": self._how.device, "impl": self._how.op_impl}
        z = fastvae_kernels.sample_normal(rows, self._spec.latent_dim, stream=stream, dtype=self._how.dtype, **where)
        if prior is not None:
            uniform = fastvae_kernels.sample_uniform(rows, 1, stream=noise.component_of(stream), **where)
            z = self._mixture(prior).draw(z, uniform[:, 0])
        return z.reshape(rows, *self._spec.latent_shape)

    def _mixture(self, prior: Prior) -> Mixture:
        """A mixture, made once: where it is one of posteriors, that runs the encoder."""
        mixtures = self._held.mixtures
        if prior not in mixtures:
            mixtures[prior] = mixture(prior, self._executors.model.weights, self._how.device, self._posteriors)
        return mixtures[prior]

    def _posteriors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x) for any number of rows of weights."""
        x = x.to(self._how.device, self._how.dtype)
        parts = [
            self._runner.run("encode", high - low, {"x": x[low:high]})
            for low, high in blocks(len(x), self._batches.rows("encode"))
        ]
        mean, logvar = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return mean, logvar
