"""Priors at run time: densities in float64, and draws that are made of given noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvae.errors import WeightMismatchError
from fastvae.heads import GaussianMixture, Prior, VampPrior
from fastvae.running import LogWeights

# Numbers that are compared with components at a time.
AT_ONCE = 2**20
# So many draws estimate a divergence that has no closed form, where nobody asks for another number.
DRAWS = 100
# How far from 1 probabilities may add up, rounded to 16 bits.
ROUNDED = 0.01


class StandardNormal:
    """N(0, I)."""

    def log_ratio(self, z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
        """log p(z) - log q(z) in float64, q the diagonal Gaussian of ``mean`` and ``logvar`` (rows, *latent_shape).

        (samples, rows) for z (samples, rows, *latent_shape).
        """
        z = z.double()
        terms = _distances(z, mean, logvar) - z.square()
        return 0.5 * terms.flatten(2).sum(2)

    def within(self, z: Tensor) -> Tensor:
        """z (rows, *latent_shape), shortened where it is longer than all but about 1e-9 of the prior's draws."""
        length = z.flatten(1).norm(dim=1)
        share: Tensor = (longest(z) / length).clamp(max=1)
        return z * share.reshape(-1, *[1] * (z.ndim - 1))


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians: ``log_weights`` (K,), ``means`` (K, dim), all in float64.

    Either ``logvars`` (K, dim), or ``factors`` (K, dim, dim) of full covariances, which are for draws alone.
    """

    log_weights: Tensor
    means: Tensor
    logvars: Tensor | None = None
    factors: Tensor | None = None

    def draw(self, noise: Tensor, uniform: Tensor) -> Tensor:
        """Draws (rows, dim) from ``noise`` (rows, dim), standard normals, in its dtype; ``uniform`` (rows,) chooses.

        Every number is made of its row's by elementwise arithmetic, so that its bits are its own.
        """
        bounds = self.log_weights.exp().cumsum(0)
        chosen = torch.searchsorted(bounds, uniform.double(), right=True).clamp(max=len(bounds) - 1)
        wide = noise.to(torch.promote_types(noise.dtype, torch.float32))
        z = self.means.to(wide.dtype)[chosen]
        if self.logvars is not None:
            z = z + (0.5 * self.logvars).exp().to(wide.dtype)[chosen] * wide
        if self.factors is not None:
            for column, of_noise in zip(self.factors.to(wide.dtype).unbind(2), wide.unbind(1), strict=True):
                z = z + column[chosen] * of_noise[:, None]
        return z.to(noise.dtype)

    def log_density(self, z: Tensor) -> Tensor:
        """log p(z) in float64: (...) for z (..., dim)."""
        return self._log_density(z) - 0.5 * z.shape[-1] * math.log(2 * math.pi)

    def log_ratio(self, z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
        """See :meth:`StandardNormal.log_ratio`."""
        z = z.double()
        own = 0.5 * _distances(z, mean, logvar).flatten(2).sum(2)
        return own + self._log_density(z.flatten(2))

    def within(self, z: Tensor) -> Tensor:
        """z (rows, *latent_shape), moved to its nearest component until it is as close as all but 1e-9 of its draws."""
        flat = z.flatten(1).double()
        lengths = torch.cat([squares.sum(2) for squares, _, _ in self._parts(flat)]).sqrt()
        length, nearest = lengths.min(0)
        centre = self.means[nearest]
        near = centre + (flat - centre) * (longest(z) / length).clamp(max=1)[:, None]
        return torch.where((length > longest(z))[:, None], near, flat).to(z.dtype).reshape(z.shape)

    def _log_density(self, z: Tensor) -> Tensor:
        """log p(z) but for its constant: (...) for z (..., dim)."""
        flat = z.double().flatten(0, -2)
        total = LogWeights(len(flat), flat.device)
        for squares, log_weights, logvars in self._parts(flat):
            total.add(log_weights[:, None] - 0.5 * (squares + logvars[:, None]).sum(2))
        total.finish()
        return total.log_sum.reshape(z.shape[:-1])

    def _parts(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Some components at a time: squared deviations of z (rows, dim) in units of theirs, (components, rows, dim).

        With their log-weights and log-variances.
        """
        assert self.logvars is not None, "only diagonal mixtures have densities"
        size = max(1, AT_ONCE // max(1, z.numel()))
        for low in range(0, len(self.means), size):
            means, logvars = self.means[low : low + size], self.logvars[low : low + size]
            yield _squares(z - means[:, None], logvars[:, None]), self.log_weights[low : low + size], logvars


def _squares(deviations: Tensor, logvar: Tensor) -> Tensor:
    """Squared deviations in standard deviations, bounded: where a variance is beyond float64, huge and not 0 * inf."""
    return (deviations * torch.exp(-0.5 * logvar).clamp(max=1e150)).square().clamp(max=1e300)


def _distances(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """-2 log q(z), entry by entry, but for the constant."""
    return _squares(z - mean.double(), logvar.double()) + logvar.double()


def longest(z: Tensor) -> float:
    """The length that all but about 1e-9 of standard normals of the shape of a row of z stay below.

    Squared, it has a chi-squared distribution; Wilson and Hilferty (1931) give its quantile, here at six standard
    deviations.
    """
    dim = z[0].numel() if len(z) else 1
    return math.sqrt(dim * (1 - 2 / (9 * dim) + 6 * math.sqrt(2 / (9 * dim))) ** 3)


def mixture(
    prior: Prior,
    weights: Mapping[str, Tensor],
    device: torch.device,
    encode: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Mixture:
    """The mixture that a spec's ``prior`` and the model's ``weights`` describe, in float64 on ``device``.

    ``encode`` gives the posteriors' means and log-variances at pseudo-inputs.
    """
    if isinstance(prior, VampPrior):
        posteriors = encode(weights[f"{prior.name}.pseudo_inputs"])
        mean, logvar = (part.to(device, torch.float64).flatten(1) for part in posteriors)
        return Mixture(log_weights(prior, weights, device), mean, logvar)
    numbers = {name: weights[f"{prior.name}.{name}"].to(device, torch.float64) for name in _parameters(prior)}
    means = numbers["means"].flatten(1)
    logvars = numbers["logvars"].flatten(1) if "logvars" in numbers else None
    return Mixture(log_weights(prior, weights, device), means, logvars, numbers.get("factors"))


def _parameters(prior: GaussianMixture) -> tuple[str, str]:
    return "means", "factors" if prior.covariance == "full" else "logvars"


def log_weights(prior: Prior, weights: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """Logarithms of the components' probabilities, (components,) in float64 on ``device``."""
    if prior.weights == "uniform":
        return torch.full((prior.components,), -math.log(prior.components), dtype=torch.float64, device=device)
    given = weights[f"{prior.name}.weights"].to(device, torch.float64)
    return given.log_softmax(0) if prior.weights == "logits" else (given / given.sum()).log()


def check_mixture(prior: Prior, weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse numbers that describe no mixture.

    Raises:
        WeightMismatchError: probabilities that are negative or do not add up to 1; a factor whose diagonal is not
            positive.
    """
    if prior.weights == "probabilities":
        given = weights[f"{prior.name}.weights"].double()
        if bool((given < 0).any()) or abs(float(given.sum()) - 1) > ROUNDED:
            raise WeightMismatchError(
                f"{source}: tensor '{prior.name}.weights' must hold probabilities that add up to 1, found values from "
                f"{float(given.min()):g} with the sum {float(given.sum()):g}; weights 'logits' are for logits"
            )
    if isinstance(prior, GaussianMixture) and prior.covariance == "full":
        name = f"{prior.name}.factors"
        if not bool((weights[name].diagonal(dim1=1, dim2=2) > 0).all()):
            raise WeightMismatchError(f"{source}: tensor {name!r} must hold lower triangles with a positive diagonal")
