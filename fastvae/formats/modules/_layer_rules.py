"""The operators that are layers with weights, and the activations.

A rule takes a :class:`Call` and returns the value that the operator makes, or a tuple of values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastvae.formats.modules._call import Call
from fastvae.formats.modules._values import Value, uniform
from fastvae.formats.modules._weights import Constant
from fastvae.layers import Activation, BatchNorm, Conv2d, ConvTranspose2d, Layer, Linear

# alpha and scale of selu, as torch.nn.functional.selu hands them to elu.
SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def linear(call: Call) -> Value:
    return _linear(call, call.value("input"), call.roles("weight", "bias"))


def addmm(call: Call) -> Value:
    if (call["beta"], call["alpha"]) != (1, 1):
        raise call.unsupported("only beta=1, alpha=1 is")
    roles = {"weight": _transposed(call.constant("mat2")), "bias": call.constant("self")}
    return _linear(call, call.value("mat1"), roles)


def matmul(call: Call) -> Value:
    matrix = call.constant("mat2" if "mat2" in call.arguments else "other")
    return _linear(call, call.value("self"), {"weight": _transposed(matrix)})


def _transposed(matrix: Constant) -> Constant:
    return Constant(matrix.tensor.mT) if matrix.tensor.ndim > 1 else matrix


def _linear(call: Call, value: Value, roles: dict[str, Constant]) -> Value:
    if roles["weight"].tensor.ndim != 2:
        raise call.unsupported(f"its weight has shape {tuple(roles['weight'].tensor.shape)}, it must be a matrix")
    outputs, inputs = roles["weight"].tensor.shape
    if "bias" in roles:  # addmm's may be broadcast
        bias = roles["bias"]
        roles["bias"] = bias if bias.tensor.shape == (outputs,) else Constant(call.row(bias, (outputs,)))
    name = call.weights.layer(call.module, call.node, roles)
    return call.layer(Linear(name, inputs, outputs, bias="bias" in roles), value)


def convolution(call: Call) -> Value:
    weight = call.constant("weight").tensor
    if weight.ndim != 4:
        raise call.unsupported(f"only 2-d convolutions are, its weight has shape {tuple(weight.shape)}")
    transposed = "output_padding" in call.arguments and call.arguments.get("transposed", True)
    kernel, stride, dilation = (weight.shape[2], weight.shape[3]), _pair(call["stride"]), _pair(call["dilation"])
    padding, groups = _padding(call, kernel, dilation), call["groups"]
    name = call.weights.layer(call.module, call.node, call.roles("weight", "bias"))
    bias = call["bias"] is not None
    if transposed:
        channels, extra = (weight.shape[0], weight.shape[1] * groups), _pair(call["output_padding"])
        layer: Layer = ConvTranspose2d(name, *channels, kernel, stride, padding, extra, dilation, groups, bias)
    else:
        channels = (weight.shape[1] * groups, weight.shape[0])
        layer = Conv2d(name, *channels, kernel, stride, padding, dilation, groups, bias)
    return call.layer(layer, call.value("input"))


def _pair(sizes: Any) -> tuple[int, int]:
    height, *rest = sizes
    return int(height), int(rest[0] if rest else height)


def _padding(call: Call, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """The padding of a convolution; ``same`` is a number only where it pads both sides alike."""
    padding = call["padding"]
    if padding == "valid":
        return 0, 0
    if padding != "same":
        return _pair(padding)
    both = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(total % 2 for total in both):
        raise call.unsupported(f"padding='same' with a kernel of {kernel} pads one side more than the other")
    return both[0] // 2, both[1] // 2


def batch_norm(call: Call) -> Value:
    if call.arguments.get("training", False) or call["running_mean"] is None:
        raise call.unsupported("it normalises with the statistics of the batch; only running statistics can be used")
    value = call.value("input")
    roles = call.roles("running_mean", "running_var", "weight", "bias")
    affine = "weight" in roles or "bias" in roles
    features = roles["running_mean"].tensor.shape[0]
    if affine:
        blank = roles["running_mean"].tensor
        roles = {"weight": Constant(torch.ones_like(blank)), "bias": Constant(torch.zeros_like(blank))} | roles
    name = call.weights.layer(call.module, call.node, roles)
    return call.layer(BatchNorm(name, features, float(call["eps"]), affine), value)


def batch_norm_and_statistics(call: Call) -> tuple[Value]:
    """The same by an operator that also returns what it saved for training, which nothing reads."""
    return (batch_norm(call),)


def activation(call: Call) -> Value:
    """An activation whose operator has the name of ours, and no parameter."""
    return _activated(call, Activation(call.name))  # type: ignore[arg-type]


def leaky_relu(call: Call) -> Value:
    return _activated(call, Activation("leaky_relu", _unless(float(call["negative_slope"]), 0.01)))


def prelu(call: Call) -> Value:
    slope = uniform(call.constant("weight").tensor)
    if slope is None:
        raise call.unsupported("only one slope for all channels is")
    return _activated(call, Activation("leaky_relu", slope))


def elu(call: Call) -> Value:
    alpha, scale = float(call["alpha"]), float(call["scale"])
    if call["input_scale"] == 1 and (alpha, scale) == SELU:
        return _activated(call, Activation("selu"))
    if (scale, call["input_scale"]) != (1, 1):
        raise call.unsupported("only scale=1, input_scale=1 is")
    return _activated(call, Activation("elu", _unless(alpha, 1.0)))


def gelu(call: Call) -> Value:
    return _activated(call, Activation("gelu_tanh" if call["approximate"] == "tanh" else "gelu"))


def softplus(call: Call) -> Value:
    if (call["beta"], call["threshold"]) != (1, 20):
        raise call.unsupported("only beta=1, threshold=20 is")
    return _activated(call, Activation("softplus"))


def threshold(call: Call) -> Value:
    if (call["threshold"], call["value"]) != (0, 0):
        raise call.unsupported("only threshold=0, value=0 is")
    return _activated(call, Activation("relu"))


def _activated(call: Call, layer: Activation) -> Value:
    return call.layer(layer, call.value("input" if "input" in call.arguments else "self"))


def _unless(alpha: float, default: float) -> float | None:
    return None if alpha == default else alpha


LAYER_RULES: dict[str, Callable[[Call], Value | tuple[Value, ...]]] = {
    "linear": linear,
    "addmm": addmm,
    "mm": matmul,
    "matmul": matmul,
    "conv2d": convolution,
    "conv_transpose2d": convolution,
    "convolution": convolution,
    "batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm_and_statistics,
    **dict.fromkeys(("relu", "silu", "tanh", "sigmoid", "selu"), activation),
    "leaky_relu": leaky_relu,
    "prelu": prelu,
    "elu": elu,
    "gelu": gelu,
    "softplus": softplus,
    "threshold": threshold,
}
