"""What a traced module computes from one input, as a graph of layers; and that graph as a stack.

A :class:`Value` is what one row is at one point of a module. Every value but the input is one operation on one other
value, or the sum of two. A stack can say a sum only as a residual: both its operands must come from one value by
stacks of their own. That value is the sum's dominator, the last one that every way from the input passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from fastvae.errors import UnsupportedError
from fastvae.layers import MAX_RESIDUAL_DEPTH, Flatten, Layer, Reshape, Residual, Shape, Stack, leaves

# More than the largest network, few enough to refuse a web of shared sums, which doubles with every sum, at once.
MAX_LAYERS = 4096


@dataclass(frozen=True, eq=False)
class Scaling:
    """``x * scale + shift``, an Affine layer whose tensors (float64) have no home yet.

    Both have one shape: that of a row, or (channels,). ``name`` is what the layer would be called.
    """

    name: str
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Part:
    """``x[:, start:stop:step]``: what a head that makes mean and scale in one tensor ends in."""

    start: int
    stop: int
    step: int = 1


@dataclass(frozen=True)
class Clamp:
    """``x`` limited to [minimum, maximum]; only a log-variance may be."""

    minimum: float | None
    maximum: float | None


@dataclass(frozen=True)
class Function:
    """``exp``, ``log`` or ``sqrt`` of a spread, ``softmax`` or ``log_softmax``: what only a head does, not a layer."""

    name: str


Operation: TypeAlias = Layer | Scaling | Part | Clamp | Function


@dataclass(frozen=True, eq=False)
class Value:
    """One row of shape ``shape`` at one point of a module.

    ``operands`` are none for the input, one for ``operation``, two for a sum. ``where`` names the operator and module
    that made it. ``level`` counts its dominators. ``made`` are the values made of it, by operation: however often a
    module does one operation on one value, that is one value.
    """

    shape: Shape
    where: str
    operation: Operation | None = None
    operands: tuple[Value, ...] = ()
    dominator: Value | None = field(default=None, repr=False)
    level: int = 0
    made: dict[Operation, Value] = field(default_factory=dict, repr=False)


def input_value(shape: Shape) -> Value:
    """The value every other one comes from."""
    return Value(shape, "the input")


def apply(operation: Operation, value: Value, shape: Shape, where: str) -> Value:
    """``operation`` on ``value``, which makes a row of ``shape``."""
    if operation not in value.made:
        value.made[operation] = Value(shape, where, operation, (value,), value, value.level + 1)
    return value.made[operation]


def add(first: Value, second: Value, where: str) -> Value:
    """The sum of two values of one shape."""
    common = common_dominator(first, second)
    return Value(first.shape, where, None, (first, second), common, common.level + 1)


def scaled(value: Value, name: str, scale: Tensor, shift: Tensor, where: str) -> Value:
    """``value * scale + shift``, in one operation with a scaling right before; ``value`` itself if nothing changes.

    scale and shift: float64 tensors, each of the row's shape, (channels,) or (1,).
    """
    if isinstance(value.operation, Scaling):
        before = value.operation
        (value,) = value.operands
        old_scale, old_shift, scale, shift = _aligned(value.shape, before.scale, before.shift, scale, shift)
        scale, shift = scale * old_scale, scale * old_shift + shift
    scale, shift = _aligned(value.shape, scale, shift)
    both = (scale + shift).shape
    scale, shift = scale.expand(both), shift.expand(both)
    if bool((scale == 1).all()) and bool((shift == 0).all()):
        return value
    per_channel = math.prod(scale.shape[1:]) == 1
    shape = value.shape[:1] if per_channel else value.shape
    scale, shift = (t.reshape(-1).expand(shape) if per_channel else t.expand(shape) for t in (scale, shift))
    return apply(Scaling(name, scale, shift), value, value.shape, where)


def _aligned(shape: Shape, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors with as many axes as a row of ``shape``, those per channel along its first."""
    return tuple(t.reshape(-1, *[1] * (len(shape) - 1)) if t.ndim == 1 else t for t in tensors)


def reshaped(value: Value, shape: Shape, where: str) -> Value:
    """``value`` in another shape of as many elements, in one operation with a reshape right before."""
    if isinstance(value.operation, Flatten | Reshape):
        (value,) = value.operands
    if value.shape == shape:
        return value
    return apply(Flatten() if len(shape) == 1 else Reshape(shape), value, shape, where)


def part(value: Value, start: int, stop: int, step: int, where: str) -> Value:
    """``value[:, start:stop:step]``; ``value`` itself if that is all of it."""
    shape = (len(range(start, stop, step)), *value.shape[1:])
    if shape == value.shape:
        return value
    return apply(Part(start, stop, step), value, shape, where)


def common_dominator(first: Value, second: Value) -> Value:
    """The last value that every way from the input to either of the two passes; one of them if it is that."""
    while first is not second:
        deeper, other = (first, second) if first.level >= second.level else (second, first)
        if deeper.dominator is None:
            raise AssertionError("values of two inputs meet")
        first, second = deeper.dominator, other
    return first


class Stacker:
    """Turns values into stacks, within a total of MAX_LAYERS.

    ``settle`` gives the tensors of a scaling a home and returns the layer.
    """

    def __init__(self, settle: Callable[[Scaling], Layer]) -> None:
        self._settle = settle
        self._made = 0

    def stack(self, value: Value, source: Value, nesting: int = 0) -> Stack:
        """The layers that make ``value`` of ``source``, which dominates it, inside of ``nesting`` residuals.

        What two sums share is repeated for each.

        Raises:
            UnsupportedError: on the way is an operation that no layer does, or sums of sums of shared values become
                too many layers.
        """
        layers: list[Layer] = []
        while value is not source:
            if value.dominator is None:
                raise AssertionError(f"{source.where} does not dominate the value asked for")
            self._made += 1
            if self._made > MAX_LAYERS or nesting > MAX_RESIDUAL_DEPTH:
                raise UnsupportedError(f"{value.where}: sums of values that sums share nest too deeply")
            if value.operation is None:
                layers.append(self._residual(value, value.dominator, nesting + 1))
            elif isinstance(value.operation, Scaling):
                layers.append(self._settle(value.operation))
            else:
                layers.append(_layer(value, value.operation))
            value = value.dominator
        return tuple(reversed(layers))

    def _residual(self, value: Value, source: Value, nesting: int) -> Residual:
        first, second = (self.stack(operand, source, nesting) for operand in value.operands)
        longer_first = len(list(leaves(first))) >= len(list(leaves(second)))
        return Residual(first, second) if longer_first else Residual(second, first)


def _layer(value: Value, operation: Layer | Part | Clamp | Function) -> Layer:
    match operation:
        case Part():
            what = "a part of a tensor; only mean and scale may be the two halves of one"
        case Clamp():
            what = "limited values; only a log-variance, variance or standard deviation may be"
        case Function():
            what = f"{operation.name}; only a parameter of the posterior or the likelihood may be made so, at the end"
        case _:
            return operation
    raise UnsupportedError(f"{value.where} is not supported there: it makes {what}")


def uniform(tensor: Tensor) -> float | None:
    """The one value that all elements have, or None."""
    first = tensor.reshape(-1)[0]
    return float(first) if bool((tensor == first).all()) else None


def constant_row(tensor: Tensor, shape: Shape) -> Tensor | None:
    """A constant operand as float64 of ``shape``, or (channels,) if it is one value per channel.

    ``tensor`` is broadcast against rows of ``shape``, batch axis first. None if it makes them larger, or is not the
    same for every row.
    """
    tensor = tensor.to(torch.float64)
    if tensor.ndim == len(shape) + 1 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if not shape or tensor.ndim > len(shape):
        return None
    aligned = tensor.reshape(*[1] * (len(shape) - tensor.ndim), *tensor.shape)
    if any(size not in (1, own) for size, own in zip(aligned.shape, shape, strict=True)):
        return None
    return aligned.reshape(-1).expand(shape[0]) if math.prod(aligned.shape[1:]) == 1 else aligned.expand(shape)
