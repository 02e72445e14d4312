"""The operators that move elements and those that are arithmetic, and the table of all rules."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from fastvae.formats.modules._call import Call
from fastvae.formats.modules._layer_rules import LAYER_RULES
from fastvae.formats.modules._values import Clamp, Function, Value, add, apply, part, reshaped
from fastvae.formats.modules._weights import Constant
from fastvae.layers import Activation


def same(call: Call) -> Value:
    """An operator that changes no number: copies, views of everything, conversions between float types."""
    value = call.value("input" if "input" in call.arguments else "self")
    dtype = call.arguments.get("dtype")
    if dtype is not None and not dtype.is_floating_point:
        raise call.unsupported(f"it makes {dtype} of floats")
    if call.row_shape() != value.shape:
        raise call.unsupported(f"it makes rows of shape {call.row_shape()} of {value.shape}")
    return value


def dropout(call: Call) -> Value:
    if call["train"]:
        raise call.unsupported("it drops at random in evaluation mode, too")
    return same(call)


def reshape(call: Call) -> Value:
    value, shape = call.value("self"), call.row_shape()
    if math.prod(shape) != math.prod(value.shape):
        raise call.unsupported(f"it makes rows of shape {shape} of {value.shape}")
    return reshaped(value, shape, call.where)


def slice_(call: Call) -> Value:
    value = call.value("self")
    size = (call.rows, *value.shape)[_axis(call)]
    start, stop, step = slice(call["start"], call["end"], call["step"]).indices(size)
    if _axis(call) != 1:
        return same(call)
    return part(value, start, stop, step, call.where)


def narrow(call: Call) -> Value:
    if _axis(call) != 1:
        return same(call)
    value = call.value("self")
    start = int(call["start"]) % value.shape[0]
    return part(value, start, start + call["length"], 1, call.where)


def select(call: Call) -> Value:
    value = call.value("self")
    if _axis(call) != 1:
        raise call.unsupported("only of the first axis after the batch can one be selected")
    index = int(call["index"]) % value.shape[0]
    return reshaped(part(value, index, index + 1, 1, call.where), call.row_shape(), call.where)


def split(call: Call) -> tuple[Value, ...]:
    """chunk, split and split_with_sizes: where each part starts follows from the shapes of the results."""
    value = call.value("self")
    if _axis(call) != 1:
        raise call.unsupported("only the first axis after the batch can be split")
    stops = [sum(shape[1] for shape in call.shapes[: i + 1]) for i in range(len(call.shapes))]
    return tuple(
        part(value, stop - shape[1], stop, 1, call.where) for stop, shape in zip(stops, call.shapes, strict=True)
    )


def _axis(call: Call) -> int:
    axes = len(call.value("self").shape) + 1
    return int(call["dim"]) % axes


def clamp(call: Call) -> Value:
    minimum, maximum = (call.arguments.get(name) for name in ("min", "max"))
    if isinstance(minimum, Constant | Value) or isinstance(maximum, Constant | Value):
        raise call.unsupported("its limits must be numbers")
    if (minimum, maximum) == (0, None):
        return call.layer(Activation("relu"), call.value("self"))
    limits = Clamp(*(None if limit is None else float(limit) for limit in (minimum, maximum)))
    value = call.value("self")
    return apply(limits, value, value.shape, call.where)


def function(call: Call) -> Value:
    value = call.value("self")
    return apply(Function(call.name), value, value.shape, call.where)


def softmax(call: Call) -> Value:
    """softmax and log_softmax over all entries of a flat row."""
    if len(call.value("self").shape) != 1 or _axis(call) != 1:
        raise call.unsupported("only a flat row can be one, over all its entries")
    name = call.name.removeprefix("_")
    return apply(Function(name), same(call), call.value("self").shape, call.where)


def plus(call: Call) -> Value:
    """self + alpha * other."""
    return _sum(call, call["self"], _times(call, call["other"], call["alpha"]))


def minus(call: Call) -> Value:
    """self - alpha * other."""
    return _sum(call, call["self"], _times(call, call["other"], -call["alpha"]))


def reversed_minus(call: Call) -> Value:
    """other - alpha * self."""
    return _sum(call, call["other"], _times(call, call["self"], -call["alpha"]))


def negative(call: Call) -> Value:
    return _checked(call, _times(call, call["self"], -1))


def times(call: Call) -> Value:
    first, second = call["self"], call["other"]
    if not isinstance(first, Value):
        first, second = second, first
    if isinstance(second, Value):
        return _gated(call, first, second)
    return _checked(call, _times(call, first, second))


def divided(call: Call) -> Value:
    divisor = call["other"]
    if isinstance(divisor, Value) or call.arguments.get("rounding_mode") is not None:
        raise call.unsupported("only a division by a constant, not rounded, is")
    divisor = divisor.tensor if isinstance(divisor, Constant) else torch.tensor(divisor)
    return _checked(call, _times(call, call.value("self"), Constant(divisor.double().reciprocal())))


def _gated(call: Call, first: Value, second: Value) -> Value:
    """x * sigmoid(x), the one product of two values that is a layer."""
    for x, gate in ((first, second), (second, first)):
        if gate.operation == Activation("sigmoid") and gate.operands == (x,):
            return call.layer(Activation("silu"), x)
    raise call.unsupported("it multiplies two values that both depend on the input, and is not x * sigmoid(x)")


def _times(call: Call, operand: object, factor: object) -> object:
    """``operand * factor`` for a constant factor; a Value if the operand is one, else a Constant."""
    if isinstance(operand, Value):
        if factor == 1:
            return operand
        scale = call.row(_constant(factor), operand.shape)
        return call.scaled(operand, scale, torch.zeros(1, dtype=torch.float64))
    return Constant(_constant(operand).tensor.double() * _constant(factor).tensor.double())


def _sum(call: Call, first: object, second: object) -> Value:
    if isinstance(first, Value) and isinstance(second, Value):
        if first is second:
            return _checked(call, _times(call, first, 2))
        if first.shape != second.shape:
            raise call.unsupported(f"it adds rows of shapes {first.shape} and {second.shape}")
        return add(first, second, call.where)
    value, constant = (first, second) if isinstance(first, Value) else (second, first)
    if not isinstance(value, Value):
        raise AssertionError("a rule was called with constants alone")
    shift = call.row(_constant(constant), value.shape)
    return _checked(call, call.scaled(value, torch.ones(1, dtype=torch.float64), shift))


def _constant(operand: object) -> Constant:
    return operand if isinstance(operand, Constant) else Constant(torch.tensor(operand, dtype=torch.float64))


def _checked(call: Call, result: object) -> Value:
    if not isinstance(result, Value) or result.shape != call.row_shape():
        raise call.unsupported("a constant makes its rows larger")
    return result


RULES: dict[str, Callable[[Call], Value | tuple[Value, ...]]] = {
    **LAYER_RULES,
    **dict.fromkeys(("clone", "contiguous", "detach", "alias", "lift_fresh_copy", "expand"), same),
    **dict.fromkeys(("to", "_to_copy", "type_as"), same),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), dropout),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"), reshape),
    **dict.fromkeys(("view_as", "reshape_as"), reshape),
    "slice": slice_,
    "narrow": narrow,
    "select": select,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), split),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "clip"), clamp),
    **dict.fromkeys(("exp", "log", "sqrt"), function),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), softmax),
    "add": plus,
    **dict.fromkeys(("sub", "subtract"), minus),
    "rsub": reversed_minus,
    **dict.fromkeys(("neg", "negative"), negative),
    **dict.fromkeys(("mul", "multiply"), times),
    **dict.fromkeys(("div", "divide", "true_divide"), divided),
}
"""By the operator's name without its overload."""
