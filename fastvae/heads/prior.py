"""What latents are drawn from, where that is no standard normal: mixtures, as plain data; their numbers are tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from fastvae.layers import Shape, check, check_positive

# How a mixture's weights are given: all equal, without a tensor; or (components,) probabilities, or their logits.
MixtureWeights: TypeAlias = Literal["uniform", "probabilities", "logits"]


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of Gaussians over latents.

    Its tensors are ``name`` and ``.weights`` (components,), unless they are uniform; ``.means`` (components,
    *latent_shape); and ``.logvars`` in the shape of the means or, with the covariance ``full``, ``.factors``
    (components, latent_dim, latent_dim), lower triangles L of covariances L L^T, of flat latents.
    """

    kind: ClassVar[str] = "gaussian_mixture"
    components: int
    name: str = "prior"
    weights: MixtureWeights = "probabilities"
    covariance: Literal["diagonal", "full"] = "diagonal"

    def __post_init__(self) -> None:
        check_positive(self.kind, components=self.components)

    def tensors(self, latent_shape: Shape, input_shape: Shape) -> dict[str, Shape]:
        """Name and shape of every tensor it needs."""
        full = self.covariance == "full"
        check(not full or len(latent_shape) == 1, f"{self.kind}: covariance 'full' is for flat latents")
        shape = (self.components, *latent_shape)
        spread = {f"{self.name}.factors": (*shape, *latent_shape)} if full else {f"{self.name}.logvars": shape}
        return _weights(self) | {f"{self.name}.means": shape} | spread


@dataclass(frozen=True)
class VampPrior:
    """A mixture of the encoder's posteriors at ``components`` pseudo-inputs (Tomczak & Welling 2018).

    Its tensors are ``name`` and ``.weights`` (components,), unless they are uniform, and ``.pseudo_inputs``
    (components, *input_shape), as the encoder takes them.
    """

    kind: ClassVar[str] = "vamp_prior"
    components: int
    name: str = "prior"
    weights: MixtureWeights = "uniform"

    def __post_init__(self) -> None:
        check_positive(self.kind, components=self.components)

    def tensors(self, latent_shape: Shape, input_shape: Shape) -> dict[str, Shape]:
        """Name and shape of every tensor it needs."""
        return _weights(self) | {f"{self.name}.pseudo_inputs": (self.components, *input_shape)}


Prior: TypeAlias = GaussianMixture | VampPrior


def _weights(mixture: Prior) -> dict[str, Shape]:
    return {} if mixture.weights == "uniform" else {f"{mixture.name}.weights": (mixture.components,)}
