"""One operator of a traced module, as the rules that translate it see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastvae.errors import UnsupportedError, WeightFormatError
from fastvae.formats.modules._values import Value, apply, constant_row, scaled
from fastvae.formats.modules._weights import Constant, Weights
from fastvae.layers import Layer, Shape


@dataclass(frozen=True)
class Call:
    """One operator of a traced module.

    Attributes:
        name: of the operator, without its overload.
        arguments: by the names of the operator's schema: values, constants and plain Python things.
        shapes: of its results, batch axis first.
        rows: number of rows it was traced with.
        module: path of the module it sits in.
        node: its name in the graph, unique in the module that was traced.
        where: operator and module, for messages.
    """

    name: str
    arguments: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    rows: int
    weights: Weights
    module: str
    node: str
    where: str

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def unsupported(self, why: str) -> UnsupportedError:
        return UnsupportedError(f"{self.where} is not supported: {why}")

    def value(self, name: str) -> Value:
        """An operand that depends on the input."""
        operand = self[name]
        if not isinstance(operand, Value):
            raise self.unsupported(f"its operand {name!r} must be computed from the module's input")
        return operand

    def constant(self, name: str) -> Constant:
        """An operand that must not depend on the input."""
        operand = self[name]
        if not isinstance(operand, Constant):
            raise self.unsupported(f"its operand {name!r} must be a parameter or buffer")
        return operand

    def roles(self, *names: str) -> dict[str, Constant]:
        """Those of the named operands that are given."""
        return {name: self.constant(name) for name in names if self[name] is not None}

    def row(self, constant: Constant, shape: Shape) -> Tensor:
        """A constant as float64 of ``shape`` or, where it is one value per channel, (channels,)."""
        row = constant_row(constant.tensor, shape)
        if row is None:
            found = tuple(constant.tensor.shape)
            raise self.unsupported(f"a constant of shape {found} does not fit every row of shape {shape}")
        return row

    def row_shape(self) -> Shape:
        """The shape of one row of the result; its first axis must still be the batch."""
        if not self.shapes[0] or self.shapes[0][0] != self.rows:
            raise self.unsupported(f"it makes shape {self.shapes[0]} of {self.rows} rows, which must stay in front")
        return self.shapes[0][1:]

    def layer(self, layer: Layer, value: Value) -> Value:
        """``layer`` on ``value``."""
        try:
            shape = layer.output_shape(value.shape)
        except WeightFormatError as error:
            raise self.unsupported(str(error)) from error
        if shape != self.row_shape():
            raise self.unsupported(f"it makes rows of shape {self.row_shape()}, the layer {shape}")
        return apply(layer, value, shape, self.where)

    def scaled(self, value: Value, scale: Tensor, shift: Tensor) -> Value:
        name = self.weights.free_name(f"{self.module}.{self.node}")
        return scaled(value, name, scale, shift, self.where)
