"""Likelihoods of tables: categories as one-hot columns, and columns of several kinds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from fastvae.heads.continuous import ContinuousBernoulli, Laplace, StudentT
from fastvae.heads.counts import NegativeBinomial, Poisson
from fastvae.heads.gaussian import Bernoulli, FixedGaussian, PerDimensionGaussian, PredictedGaussian
from fastvae.heads.sources import Parametric, Plain
from fastvae.layers import Shape, Stack, check, check_positive, stack_shape


@dataclass(frozen=True)
class Categorical(Parametric):
    """p(x|z) is one of as many categories as there are columns, and x one-hot; the decoder's features are logits."""

    kind: ClassVar[str] = "categorical"
    location: Stack = ()

    def output_shape(self, shape: Shape) -> Shape:
        made = super().output_shape(shape)
        check(len(made) == 1, f"categorical: is for flat rows, not {made}")
        return made


OfSegment: TypeAlias = (
    Bernoulli
    | FixedGaussian
    | PerDimensionGaussian
    | PredictedGaussian
    | Laplace
    | StudentT
    | ContinuousBernoulli
    | Poisson
    | NegativeBinomial
    | Categorical
)


@dataclass(frozen=True)
class Segment:
    """``columns`` that follow each other, with a likelihood of their own.

    ``stack`` holds what their share of the decoder's features goes through first, such as an activation. Tensors of the
    likelihood have the shape (columns,).
    """

    kind: ClassVar[str] = "segment"
    columns: int
    likelihood: OfSegment
    stack: Stack = ()

    def __post_init__(self) -> None:
        check_positive("segment", columns=self.columns)
        check(
            not any(self.likelihood.stacks()),
            f"segment: {self.likelihood.kind} must have no stacks of layers; put them into the decoder or the segment",
        )
        made = self.likelihood.output_shape(stack_shape(self.stack, (self.features,)))
        check(
            made == (self.columns,), f"segment: {self.columns} columns are made from {self.features} features: {made}"
        )

    @property
    def features(self) -> int:
        """How many of the decoder's features are this segment's."""
        return self.likelihood.features(self.columns)


@dataclass(frozen=True)
class Mixed(Plain):
    """p(x|z) of flat rows whose columns are of several kinds, independent of each other given z.

    Segments follow each other in the columns, and as many shares in the decoder's features.
    """

    kind: ClassVar[str] = "mixed"
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        check(len(self.segments) > 0, "mixed: needs a segment at least")

    def spans(self) -> Iterator[tuple[Segment, tuple[int, int], tuple[int, int]]]:
        """Each segment with the first and the last of its columns and of its features, the last not included."""
        column = feature = 0
        for segment in self.segments:
            ends = column + segment.columns, feature + segment.features
            yield segment, (column, ends[0]), (feature, ends[1])
            column, feature = ends

    def output_shape(self, shape: Shape) -> Shape:
        features = sum(segment.features for segment in self.segments)
        check(shape == (features,), f"mixed: the segments take {features} flat features, found shape {shape}")
        return (sum(segment.columns for segment in self.segments),)

    def stacks(self) -> tuple[Stack, ...]:
        return tuple(segment.stack for segment in self.segments)

    def tensors(self, shape: Shape, conditions: int) -> dict[str, Shape]:
        needed: dict[str, Shape] = {}
        for segment in self.segments:
            for name, of in segment.likelihood.tensors((segment.columns,), conditions).items():
                check(name not in needed, f"tensor {name!r} is used twice")
                needed[name] = of
        return needed

    @property
    def row_parameters(self) -> int:
        return sum(segment.likelihood.row_parameters for segment in self.segments)
