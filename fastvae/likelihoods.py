"""Output heads at run time: what the parameters a decoder makes mean, and how to draw from them.

The log-density itself is a kernel op (``bernoulli_nll``, ``gaussian_nll``) at the end of the ``score`` plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import fastvae_kernels
from fastvae.model import Model
from fastvae.spec import Bernoulli, FixedGaussian, Likelihood, PerDimensionGaussian


@dataclass(frozen=True)
class OutputHead:
    """p(x|z) of one model, from the tensors its ``parameters`` plan returns.

    ``logvar`` is the constant log-variance of a Gaussian that does not predict one: a scalar, or a row's shape.
    """

    likelihood: Likelihood
    logvar: Tensor | None

    @property
    def unit_interval(self) -> bool:
        """Whether the data live in [0, 1]."""
        return isinstance(self.likelihood, Bernoulli)

    def mean(self, parameters: Sequence[Tensor]) -> Tensor:
        """E[x|z], shape (rows, *input_shape)."""
        return torch.sigmoid(parameters[0]) if self.unit_interval else parameters[0]

    def sample(self, parameters: Sequence[Tensor], *, seed: int, start: int, stream: int) -> Tensor:
        """One draw x ~ p(x|z) per row, shape (rows, *input_shape); row ``i`` uses the noise of ``start + i``."""
        mean = self.mean(parameters)
        rows, size = mean.shape[0], mean[:1].numel() if len(mean) else 0
        draw = fastvae_kernels.sample_uniform if self.unit_interval else fastvae_kernels.sample_normal
        noise = draw(rows, size, seed=seed, start=start, stream=stream, device=mean.device).reshape(mean.shape)
        if self.unit_interval:  # compared in float32: a narrower uniform may round to 1
            return (noise < torch.sigmoid(parameters[0].to(torch.promote_types(mean.dtype, noise.dtype)))).to(
                mean.dtype
            )
        noise = noise.to(mean.dtype)
        logvar = parameters[1] if len(parameters) > 1 else self.logvar
        if logvar is None:
            raise AssertionError("a Gaussian head has a constant log-variance or predicts one")
        return mean + noise * torch.exp(0.5 * logvar.to(mean))


def output_head(model: Model) -> OutputHead:
    """The head of ``model``'s likelihood."""
    return OutputHead(model.spec.likelihood, constant_logvar(model))


def constant_logvar(model: Model) -> Tensor | None:
    """The log-variance of a Gaussian likelihood that does not predict it, in float64; None for other likelihoods.

    A scalar for one variance, or the shape of a row for one per dimension.
    """
    likelihood = model.spec.likelihood
    if isinstance(likelihood, FixedGaussian):
        return torch.tensor(likelihood.variance, dtype=torch.float64).log()
    if isinstance(likelihood, PerDimensionGaussian):
        # The op expects a row axis.
        raw = model.weights[likelihood.name].double().unsqueeze(0)
        return fastvae_kernels.logvar(raw, parametrization=likelihood.parametrization, eps=likelihood.eps).squeeze(0)
    return None
