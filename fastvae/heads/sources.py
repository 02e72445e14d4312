"""Where the parameters of a likelihood come from: fixed, learned, by condition, or predicted from the features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from fastvae.layers import Shape, Stack, check, stack_shape

# What a tensor holds of a positive parameter: its logarithm; what softplus makes it of, or itself, each plus eps.
Form: TypeAlias = Literal["log", "softplus", "identity"]


@dataclass(frozen=True)
class Fixed:
    """One positive number for all entries."""

    kind: ClassVar[str] = "fixed"
    value: float = 1.0

    def __post_init__(self) -> None:
        check(0 < self.value < math.inf, f"fixed: value must be positive and finite, got {self.value}")


@dataclass(frozen=True)
class PerDimension:
    """A learned number for each entry, the same for every row: the tensor ``name``, of the data's shape."""

    kind: ClassVar[str] = "per_dimension"
    name: str
    form: Form = "log"
    eps: float = 0.0

    def __post_init__(self) -> None:
        check(self.eps >= 0, f"per_dimension: eps must not be negative, got {self.eps}")


@dataclass(frozen=True)
class ByCondition:
    """A learned number for each entry and number of the condition, as a batch or a label has it.

    The tensor ``name`` is (entries, condition's dim); its product with the condition is the parameter's logarithm.
    """

    kind: ClassVar[str] = "by_condition"
    name: str


@dataclass(frozen=True)
class Predicted:
    """A number for each entry of each row, made by ``stack`` from the decoder's features; see :class:`Parametric`."""

    kind: ClassVar[str] = "predicted"
    stack: Stack = ()
    form: Form = "log"
    eps: float = 0.0

    def __post_init__(self) -> None:
        check(self.eps >= 0, f"predicted: eps must not be negative, got {self.eps}")


Source: TypeAlias = Fixed | PerDimension | Predicted


class Plain:
    """What every likelihood says of itself; here, for those whose only parameter is the decoder's features."""

    # Whether it takes images of any size.
    any_size: ClassVar[bool] = False

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of a row of data, for features of ``shape``."""
        return shape

    def stacks(self) -> tuple[Stack, ...]:
        """Stacks of layers over the decoder's features."""
        return ()

    def tensors(self, shape: Shape, conditions: int) -> dict[str, Shape]:
        """Tensors besides those of layers, for data of ``shape`` and a condition of so many numbers (0: none)."""
        return {}

    @property
    def row_parameters(self) -> int:
        """How many parameters differ from row to row."""
        return 1

    def features(self, columns: int) -> int:
        """How many flat features make ``columns`` entries, where no stack of its own comes first."""
        return columns


class Parametric(Plain):
    """A likelihood of a location and of further parameters, in the fields ``further``, each from its source.

    Where the location and any predicted parameter have no stack of their own, the decoder's features are all of them,
    one after the other along the channels: the location, then the predicted ones in the order of ``further``. Otherwise
    each stack starts from all features.
    """

    kind: ClassVar[str]
    further: ClassVar[tuple[str, ...]] = ()
    location: Stack

    def sources(self) -> Iterator[tuple[str, Source | ByCondition]]:
        """Its further parameters by name, those left out aside."""
        for name in self.further:
            source = getattr(self, name)
            if source is not None:
                yield name, source

    def predicted(self) -> tuple[Predicted, ...]:
        """Sources of the parameters that the features make besides the location."""
        return tuple(source for _, source in self.sources() if isinstance(source, Predicted))

    @property
    def chunks(self) -> int:
        """Of how many parts along their channels the features are; 1 where stacks start from all of them."""
        return 1 if any(self.stacks()) else 1 + len(self.predicted())

    def output_shape(self, shape: Shape) -> Shape:
        check(
            shape[0] % self.chunks == 0,
            f"{self.kind}: the decoder must make a multiple of {self.chunks} channels, found shape {shape}",
        )
        made = (shape[0] // self.chunks, *shape[1:])
        location = stack_shape(self.location, made)
        for name, source in self.sources():
            if isinstance(source, Predicted):
                found = stack_shape(source.stack, made)
                check(found == location, f"{self.kind}: the location has shape {location} but {name} has {found}")
        return location

    def stacks(self) -> tuple[Stack, ...]:
        return (self.location, *(source.stack for source in self.predicted()))

    def tensors(self, shape: Shape, conditions: int) -> dict[str, Shape]:
        needed: dict[str, Shape] = {}
        for name, source in self.sources():
            if isinstance(source, PerDimension):
                check(source.name not in needed, f"tensor {source.name!r} is used twice")
                needed[source.name] = shape
            if isinstance(source, ByCondition):
                check(conditions > 0, f"{self.kind}: {name} is by condition, but the model has none")
                check(len(shape) == 1, f"{self.kind}: {name} by condition is for flat rows, not {shape}")
                needed[source.name] = (shape[0], conditions)
        return needed

    def features(self, columns: int) -> int:
        return columns * self.chunks

    @property
    def row_parameters(self) -> int:
        return 1 + sum(isinstance(source, Predicted | ByCondition) for _, source in self.sources())
