"""Likelihoods of real data with heavier tails than a Gaussian's, and of data in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastvae.heads.sources import Fixed, Parametric, PerDimension, Source
from fastvae.layers import Stack

UNIT = Fixed()


@dataclass(frozen=True)
class Laplace(Parametric):
    """p(x|z) is Laplace, with density exp(-|x - location| / scale) / (2 scale)."""

    kind: ClassVar[str] = "laplace"
    further: ClassVar[tuple[str, ...]] = ("scale",)
    scale: Source = UNIT
    location: Stack = ()


@dataclass(frozen=True)
class StudentT(Parametric):
    """p(x|z) is Student's t with ``df`` degrees of freedom, moved to the location and stretched by the scale.

    What decoding gives is the location, which is the mean for more than one degree of freedom.
    """

    kind: ClassVar[str] = "student_t"
    further: ClassVar[tuple[str, ...]] = ("scale", "df")
    df: Fixed | PerDimension
    scale: Source = UNIT
    location: Stack = ()


@dataclass(frozen=True)
class ContinuousBernoulli(Parametric):
    """p(x|z) is continuous Bernoulli per element, of data in [0, 1]; the decoder's features are its logits."""

    kind: ClassVar[str] = "continuous_bernoulli"
    location: Stack = ()
