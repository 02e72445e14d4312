"""Layers one after the other, and beside each other in residuals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from fastvae.layers.checks import Shape, check
from fastvae.layers.convolutions import Conv2d, ConvTranspose2d
from fastvae.layers.elementary import Activation, Affine, BatchNorm, Flatten, Linear, Reshape
from fastvae.layers.images import Attention, GroupNorm, Upsample

# Far beyond any model's, and far below Python's recursion limit: specs come out of files.
MAX_RESIDUAL_DEPTH = 16


@dataclass(frozen=True)
class Residual:
    """``y = body(x) + shortcut(x)``, both of one shape; an empty ``shortcut`` is the identity.

    Residuals may hold residuals, at most MAX_RESIDUAL_DEPTH deep.
    """

    kind: ClassVar[str] = "residual"
    body: Stack
    shortcut: Stack = ()

    def __post_init__(self) -> None:
        check(len(self.body) > 0, "residual: body must hold at least one layer")
        check(
            self.depth <= MAX_RESIDUAL_DEPTH,
            f"residual: nested {self.depth} deep, at most {MAX_RESIDUAL_DEPTH} is supported",
        )

    @property
    def depth(self) -> int:
        """1, or one more than that of the deepest residual inside."""
        nested = (layer.depth for layer in (*self.body, *self.shortcut) if isinstance(layer, Residual))
        return 1 + max(nested, default=0)

    def output_shape(self, shape: Shape) -> Shape:
        body, shortcut = stack_shape(self.body, shape), stack_shape(self.shortcut, shape)
        check(body == shortcut, f"residual: body makes shape {body} but shortcut {shortcut}")
        return body

    def tensors(self) -> dict[str, Shape]:
        return stack_tensors((*self.body, *self.shortcut))


Layer: TypeAlias = (
    Linear
    | Conv2d
    | ConvTranspose2d
    | BatchNorm
    | Affine
    | Activation
    | Flatten
    | Reshape
    | GroupNorm
    | Attention
    | Upsample
    | Residual
)
Stack: TypeAlias = tuple[Layer, ...]


def stack_tensors(stack: Stack) -> dict[str, Shape]:
    """Name and shape of every tensor of ``stack``; WeightFormatError where one name has two shapes."""
    needed: dict[str, Shape] = {}
    for layer in stack:
        for name, shape in layer.tensors().items():
            check(
                needed.setdefault(name, shape) == shape,
                f"tensor {name!r} is used as {needed[name]} and as {shape}",
            )
    return needed


def leaves(stack: Stack) -> Iterator[Layer]:
    """Every layer of ``stack`` that is no residual: those inside of residuals stand in for them, body first."""
    for layer in stack:
        if isinstance(layer, Residual):
            yield from leaves((*layer.body, *layer.shortcut))
        else:
            yield layer


def stack_shape(stack: Stack, shape: Shape) -> Shape:
    """The shape a row of ``shape`` has after ``stack``; WeightFormatError where a layer does not fit."""
    for layer in stack:
        shape = layer.output_shape(shape)
    return shape
