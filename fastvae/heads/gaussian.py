"""Likelihoods of binary and of real data: Bernoullis and Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastvae.heads.posterior import GaussianHead, Parametrization
from fastvae.heads.sources import Plain
from fastvae.layers import Shape, Stack, check


@dataclass(frozen=True)
class Bernoulli(Plain):
    """p(x|z) is Bernoulli per element; the decoder's features are its logits. Data lie in [0, 1]."""

    kind: ClassVar[str] = "bernoulli"
    any_size: ClassVar[bool] = True


@dataclass(frozen=True)
class FixedGaussian(Plain):
    """p(x|z) is Gaussian with one variance for all; the decoder's features are its mean."""

    kind: ClassVar[str] = "gaussian_fixed"
    any_size: ClassVar[bool] = True
    variance: float = 1.0

    def __post_init__(self) -> None:
        check(
            0 < self.variance < math.inf,
            f"gaussian_fixed: variance must be positive and finite, got {self.variance}",
        )


@dataclass(frozen=True)
class PerDimensionGaussian(Plain):
    """p(x|z) is Gaussian with a learned variance per dimension, the same for every row.

    The tensor ``name`` has the data's shape and holds what ``parametrization`` says (see GaussianHead).
    """

    kind: ClassVar[str] = "gaussian_per_dimension"
    name: str = "likelihood.logvar"
    parametrization: Parametrization = "logvar"
    eps: float = 0.0

    def __post_init__(self) -> None:
        check(self.eps >= 0, f"gaussian_per_dimension: eps must not be negative, got {self.eps}")

    def tensors(self, shape: Shape, conditions: int) -> dict[str, Shape]:
        return {self.name: shape}


@dataclass(frozen=True)
class PredictedGaussian(Plain):
    """p(x|z) is Gaussian; ``head`` makes mean and variance of every row from the decoder's features."""

    kind: ClassVar[str] = "gaussian_predicted"
    any_size: ClassVar[bool] = True
    head: GaussianHead

    def output_shape(self, shape: Shape) -> Shape:
        return self.head.output_shape(shape)

    def stacks(self) -> tuple[Stack, ...]:
        return self.head.stacks()

    def features(self, columns: int) -> int:
        return 2 * columns

    @property
    def row_parameters(self) -> int:
        return 2
