"""The approximate posterior q(z|x) that ``VAE.encode`` returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fastvae import noise
from fastvae.arrays import Array, to_kind
from fastvae.errors import InputError
from fastvae.runtime import Engine
from fastvae.runtime.batching import blocks
from fastvae.scoring import divergence

SAMPLING_ROWS = 4096


@dataclass(slots=True, eq=False)
class Posterior:
    """A diagonal Gaussian per row.

    ``mean`` and ``logvar`` have shape (rows, *latent_shape), float32 (float64 in that precision), in the kind
    (NumPy, or a tensor on its device) that ``encode`` was given. The methods need the model, open.

    Of a model loaded with ``scaled_latents`` all of it is about scaled latents: ``mean``, ``logvar`` (its variance
    scales by the square of the factor) and draws, which are the draws of the model's own latents, scaled.
    """

    mean: Array
    logvar: Array
    _engine: Engine = field(repr=False)

    def sample(self, seed: int = 0, samples: int = 1, *, start: int = 0) -> Array:
        """Draws z ~ q(z|x): mean + exp(logvar / 2) * noise.

        The noise of row ``i`` is that of index ``start + i``: a data set encoded in pieces draws the same.

        Args:
            seed: unsigned 64-bit integer.
            samples: draws per row.
            start: index of the first row.

        Returns:
            (rows, *latent_shape), or (samples, rows, *latent_shape) if ``samples`` is not 1.

        Raises:
            InputError: ``seed``, ``samples`` or ``start`` out of range, or more draws than fit in memory.
        """
        seed, start = noise.check_seed(seed), noise.check_count("start", start)
        samples = noise.check_count("samples", samples, least=1, most=noise.MAX_SAMPLES)
        with self._engine.in_use:
            mean, logvar = self._tensors()
            shape = (samples, *mean.shape)
            try:
                z = torch.empty(shape, dtype=mean.dtype, device=mean.device)
            except RuntimeError as error:
                raise InputError(f"samples: draws of shape {shape} do not fit in memory; ask for fewer") from error
            for low, high in blocks(len(mean), max(1, SAMPLING_ROWS // samples)):
                part = mean[low:high], logvar[low:high]
                z[:, low:high] = self._engine.draws.from_posterior(
                    *part, seed=seed, start=start + low, stream=noise.POSTERIOR, samples=samples
                )[0]
            return to_kind(z[0] if samples == 1 else z, self.mean)

    def kl(self) -> Array:
        """KL(q(z|x) || p(z)) in nats, shape (rows,).

        That of the model's own latents, whether ``mean`` and ``logvar`` are scaled or not. Where the prior is no
        N(0, I) it is an estimate, from the draws that ``VAE.score`` of the metric ``kl`` takes.
        """
        with self._engine.in_use:
            mean, logvar = self._unscaled(*self._tensors())
            kl = torch.empty(len(mean), dtype=mean.dtype, device=mean.device)
            for low, high in blocks(len(mean), SAMPLING_ROWS):
                kl[low:high] = divergence(self._engine, mean[low:high], logvar[low:high], low)
            return to_kind(kl, self.mean)

    def unscaled(self) -> tuple[Array, Array]:
        """``mean`` and ``logvar`` of the model's own latents, whose prior is N(0, I), be these scaled or not."""
        with self._engine.in_use:
            mean, logvar = self._unscaled(*self._tensors())
            return to_kind(mean, self.mean), to_kind(logvar, self.mean)

    def _unscaled(self, mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the model's own latents."""
        scaling = self._engine.spec.latent_scaling
        if scaling is None or not self._engine.settings.scaled_latents:
            return mean, logvar
        shape = (-1, *[1] * (mean.ndim - 2))
        offsets, factors = (
            torch.tensor(vector, dtype=torch.float64, device=mean.device).reshape(shape)
            for vector in scaling.vectors(mean.shape[1])
        )
        return (mean / factors + offsets).to(mean.dtype), (logvar - 2 * factors.log()).to(logvar.dtype)

    def _tensors(self) -> tuple[Tensor, Tensor]:
        """Mean and log-variance on the engine's device."""
        mean, logvar = (
            torch.from_numpy(values) if isinstance(values, np.ndarray) else values
            for values in (self.mean, self.logvar)
        )
        return mean.to(self._engine.device), logvar.to(self._engine.device)
