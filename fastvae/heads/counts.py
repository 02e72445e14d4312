"""Likelihoods of counts: their mean a rate of its own, or a share of a row's total."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from fastvae.heads.sources import ByCondition, Parametric, Predicted, Source
from fastvae.layers import Shape, Stack, check

Link: TypeAlias = Literal["exp", "softplus", "softmax"]
Library: TypeAlias = Literal["fixed", "observed"]


class Counts(Parametric):
    """A likelihood of counts, whose location's ``link`` makes their mean (of those that are not extra zeros).

    ``exp`` and ``softplus`` make it of each entry alone. ``softmax`` makes the shares of a row's entries in a total:
    ``library_size``, or with ``library`` observed the row's own sum, wherever there is a row; without one, as in
    decoding, it is ``library_size`` all the same.
    """

    link: Link
    library: Library
    library_size: float

    def __post_init__(self) -> None:
        size = self.library_size
        check(0 < size < math.inf, f"{self.kind}: library_size must be positive and finite, got {size}")
        shares = self.link == "softmax"
        check(shares or self.library == "fixed", f"{self.kind}: library 'observed' needs link 'softmax'")
        check(shares or size == 1, f"{self.kind}: library_size {size} needs link 'softmax'")
        extra = getattr(self, "zero_inflation", None)
        check(extra is None or extra.form == "log", f"{self.kind}: zero_inflation makes log-odds, of form 'log'")

    def output_shape(self, shape: Shape) -> Shape:
        made = super().output_shape(shape)
        check(self.link != "softmax" or len(made) == 1, f"{self.kind}: link 'softmax' is for flat rows, not {made}")
        return made


@dataclass(frozen=True)
class Poisson(Counts):
    """p(x|z) is Poisson; with ``zero_inflation``, log-odds, also 0 for another reason."""

    kind: ClassVar[str] = "poisson"
    further: ClassVar[tuple[str, ...]] = ("zero_inflation",)
    link: Link = "exp"
    library: Library = "fixed"
    library_size: float = 1.0
    zero_inflation: Predicted | None = None
    location: Stack = ()


@dataclass(frozen=True)
class NegativeBinomial(Counts):
    """p(x|z) is negative binomial, of variance mean + mean² / dispersion; with ``zero_inflation`` as a Poisson.

    The dispersion modes of scVI are a source each: gene per dimension, gene-cell predicted, gene-batch and gene-label
    by condition.
    """

    kind: ClassVar[str] = "negative_binomial"
    further: ClassVar[tuple[str, ...]] = ("dispersion", "zero_inflation")
    dispersion: Source | ByCondition
    link: Link = "exp"
    library: Library = "fixed"
    library_size: float = 1.0
    zero_inflation: Predicted | None = None
    location: Stack = ()


@dataclass(frozen=True)
class Multinomial(Counts):
    """p(x|z) is multinomial: a total, as for link softmax, shared out over a row's entries."""

    kind: ClassVar[str] = "multinomial"
    link: Literal["softmax"] = "softmax"
    library: Library = "observed"
    library_size: float = 1.0
    location: Stack = ()
