"""Elementwise functions as ONNX nodes that stay accurate where the textbook formula does not.

ONNX has no log1p: for u in [0, 1] it is log(w) * u / (w - 1) with w = fl(1 + u), and u itself where w is 1
(Goldberg 1991, theorem 4).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastvae.onnx.graph import Graph

TINY = float(np.finfo(np.float32).tiny)
# Below it softplus(x) is exp(x) - exp(2 x) / 2 to float32, and its logarithm x - exp(x) / 2.
FAR = -10.0
# The largest float32 whose exponential is finite.
LARGEST_EXPONENT = 88.72283

_PLAIN = {"relu": "Relu", "selu": "Selu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


def activate(graph: Graph, x: str, function: str = "identity", alpha: float | None = None) -> str:
    """The activation of ``fastvae_kernels.ACTIVATIONS`` called ``function`` of ``x``."""
    if function == "identity":
        return x
    if function in _PLAIN:
        return graph.add(_PLAIN[function], [x])
    return _OTHERS[function](graph, x, alpha)


def _silu(graph: Graph, x: str, _: float | None) -> str:
    return graph.add("Mul", [x, graph.add("Sigmoid", [x])])


_OTHERS: dict[str, Callable[[Graph, str, float | None], str]] = {
    "leaky_relu": lambda graph, x, alpha: graph.add("LeakyRelu", [x], alpha=0.01 if alpha is None else alpha),
    "elu": lambda graph, x, alpha: graph.add("Elu", [x], alpha=1.0 if alpha is None else alpha),
    "gelu": lambda graph, x, _: graph.add("Gelu", [x], approximate="none"),
    "gelu_tanh": lambda graph, x, _: graph.add("Gelu", [x], approximate="tanh"),
    "silu": _silu,
    "softplus": lambda graph, x, _: softplus(graph, x),
}


def log1p(graph: Graph, u: str) -> str:
    """log(1 + u) for u in [0, 1], to a few units in the last place."""
    one = graph.number(1.0)
    w = graph.add("Add", [u, one])
    rounded = graph.add("Sub", [w, one])
    # Where w is 1 the quotient is 0 / tiny: kept finite, since Where reads both of its branches.
    quotient = graph.add("Div", [u, graph.add("Max", [rounded, graph.number(TINY)])])
    exact = graph.add("Mul", [graph.add("Log", [w]), quotient])
    return graph.add("Where", [graph.add("Greater", [rounded, graph.number(0.0)]), exact, u])


def softplus(graph: Graph, x: str) -> str:
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))."""
    small = graph.add("Exp", [graph.add("Neg", [graph.add("Abs", [x])])])
    return graph.add("Add", [graph.add("Relu", [x]), log1p(graph, small)])


def logvar(
    graph: Graph, raw: str, parametrization: str, eps: float, minimum: float | None, maximum: float | None
) -> str:
    """The log-variance that a head's output stands for; see ``fastvae_kernels.logvar``."""
    value = raw
    if parametrization == "softplus_std":
        value = graph.add("Mul", [graph.number(2.0), _log_softplus(graph, raw, eps)])
    elif parametrization == "variance":
        shifted = graph.add("Add", [raw, graph.number(eps)])
        value = graph.add("Log", [graph.add("Max", [shifted, graph.number(TINY)])])
    if minimum is None and maximum is None:
        return value
    bounds = [graph.number(bound) if bound is not None else "" for bound in (minimum, maximum)]
    return graph.add("Clip", [value, *bounds])


def _log_softplus(graph: Graph, x: str, eps: float) -> str:
    """log(softplus(x) + eps), which goes to x where softplus underflows and eps is 0."""
    spread = softplus(graph, x)
    if eps > 0:
        return graph.add("Log", [graph.add("Add", [spread, graph.number(eps)])])
    near = graph.add("Log", [graph.add("Max", [spread, graph.number(TINY)])])
    bounded = graph.add("Min", [x, graph.number(FAR)])
    far = graph.add("Sub", [x, graph.add("Mul", [graph.number(0.5), graph.add("Exp", [bounded])])])
    return graph.add("Where", [graph.add("Less", [x, graph.number(FAR)]), far, near])
