"""Likelihoods and divergences as ONNX nodes: one number a row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastvae.layers import Shape
from fastvae.onnx.activations import LARGEST_EXPONENT
from fastvae.onnx.graph import Graph

# A product of so many sigmoids of positive numbers, each in [1/2, 1], stays a normal float32.
FACTORS = 64
# Floats of a cache line.
ALIGNMENT = 16


class Samples:
    """Parameters of p(x|z) for several draws of z a row: (samples * rows, ...), seen as (samples, rows, ...)."""

    def __init__(self, graph: Graph, x: str, shape: Shape, *, several: bool, aligned: bool) -> None:
        self._graph, self._x, self._several, self.aligned = graph, x, several, aligned
        self.shape = shape
        self.axes = tuple(range(1 + several, 1 + several + len(shape)))

    def split(self, parameter: str) -> str:
        """``parameter`` with an axis of samples of its own, so that it broadcasts against the data."""
        if not self._several:
            return parameter
        rows = self._graph.add("Shape", [self._x], start=0, end=1)
        target = self._graph.add("Concat", [self._graph.integers(-1), rows, self._graph.integers(*self.shape)], axis=0)
        return self._graph.add("Reshape", [parameter, target])

    def total(self, term: str, reduction: str = "ReduceSum") -> str:
        """The sum of ``term``, or with ReduceSumSquare of its squares, over a row's entries: (samples * rows,)."""
        if self.aligned:
            leading = (0,) * self.axes[0]
            flat = self._graph.add("Reshape", [term, self._graph.integers(*leading, -1)])
            term = aligned(self._graph, flat, math.prod(self.shape), len(leading))
            axes = self._graph.integers(len(leading))
        else:
            axes = self._graph.integers(*self.axes)
        return self.flat(self._graph.add(reduction, [term, axes], keepdims=0))

    def flat(self, value: str) -> str:
        """One number for each row of each sample: (samples * rows,)."""
        return self._graph.add("Reshape", [value, self._graph.integers(-1)]) if self._several else value


def bernoulli_nll(graph: Graph, logits: str, x: str, mask: str | None, samples: Samples) -> str:
    """-log p(x|z) of logits l: the sum of max(l, 0) - l x + log(1 + exp(-|l|)).

    The last term is -log sigmoid(|l|), and a sum of logarithms is the logarithm of a product: without a mask one
    logarithm serves up to FACTORS entries.
    """
    logits = samples.split(logits)
    linear = graph.add("Sub", [graph.add("Relu", [logits]), graph.add("Mul", [logits, x])])
    factors = graph.add("Sigmoid", [graph.add("Abs", [logits])])
    if mask is not None or samples.aligned:
        term = graph.add("Sub", [linear, graph.add("Log", [factors])])
        return samples.total(term if mask is None else graph.add("Where", [mask, term, graph.number(0.0)]))
    size = math.prod(samples.shape)
    width = max(d for d in range(1, min(FACTORS, size) + 1) if size % d == 0)
    groups = graph.add("Reshape", [factors, graph.integers(-1, size // width, width)])
    products = graph.add("ReduceProd", [groups, graph.integers(2)], keepdims=0)
    logs = graph.add("ReduceSum", [graph.add("Log", [products]), graph.integers(1)], keepdims=0)
    return graph.add("Sub", [samples.total(linear), logs])


def gaussian_nll(graph: Graph, mean: str, logvar: str, x: str, mask: str | None, samples: Samples) -> str:
    """-log p(x|z): half the sum of log 2π + logvar + (x - mean)² exp(-logvar)."""
    difference, logvar = graph.add("Sub", [x, samples.split(mean)]), samples.split(logvar)
    # exp(-logvar / 2) before the square, so that a tiny variance overflows only where the result does.
    scale = graph.add("Exp", [graph.add("Mul", [graph.number(-0.5), logvar])])
    scaled = graph.add("Mul", [difference, scale])
    squares = graph.add("Mul", [scaled, scaled])
    term = graph.add("Add", [squares, graph.add("Add", [logvar, graph.number(math.log(2 * math.pi))])])
    if mask is not None:
        term = graph.add("Where", [mask, term, graph.number(0.0)])
    return _half(graph, samples.total(term))


def gaussian_nll_constant(graph: Graph, mean: str, logvar: Tensor, x: str, mask: str | None, samples: Samples) -> str:
    """:func:`gaussian_nll` for a log-variance that is the same for all rows: a float64 scalar, or of a row's shape."""
    scale = (-0.5 * logvar).exp().clamp(max=torch.finfo(torch.float32).max)
    difference = graph.add("Sub", [x, samples.split(mean)])
    scaled = graph.add("Mul", [difference, graph.constant(f"scale:{mean}", scale.float().numpy())])
    normaliser = (logvar + math.log(2 * math.pi)).expand(samples.shape)
    if mask is None:
        squares = samples.total(scaled, "ReduceSumSquare")
        return _half(graph, graph.add("Add", [squares, graph.number(float(normaliser.sum()))]))
    offset = graph.constant(f"normaliser:{mean}", normaliser.float().numpy())
    term = graph.add("Add", [graph.add("Mul", [scaled, scaled]), offset])
    return _half(graph, samples.total(graph.add("Where", [mask, term, graph.number(0.0)])))


def squared_error(graph: Graph, output: str, x: str, samples: Samples) -> str:
    """The sum of squared differences."""
    difference = graph.add("Sub", [samples.split(output), x])
    return samples.total(difference, "ReduceSumSquare")


def divergence(graph: Graph, mean: str, logvar: str, rows: Samples) -> str:
    """KL(N(mean, exp(logvar)) || N(0, I)): half the sum of mean² + exp(logvar) - 1 - logvar."""
    variance = graph.add("Exp", [graph.add("Min", [logvar, graph.number(LARGEST_EXPONENT)])])
    excess = graph.add("Sub", [graph.add("Sub", [variance, graph.number(1.0)]), logvar])
    term = graph.add("Add", [graph.add("Mul", [mean, mean]), excess])
    return _half(graph, rows.total(term))


def aligned(graph: Graph, x: str, size: int, axis: int) -> str:
    """``x`` with zeros after its last axis, number ``axis`` and of ``size``, so that every row starts on a cache line.

    A sum's order, and so its bits, may follow the alignment of what is added.
    """
    extra = -size % ALIGNMENT
    pads = [0] * (2 * axis + 1) + [extra]
    return graph.add("Pad", [x, graph.integers(*pads)]) if extra else x


def _half(graph: Graph, value: str) -> str:
    return graph.add("Mul", [value, graph.number(0.5)])
