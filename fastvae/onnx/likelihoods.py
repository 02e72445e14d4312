"""Likelihoods beyond Bernoulli and Gaussian as ONNX nodes, and the steps around them; those of counts have no form.

Each function gets the translation, the step, and the names of its operands in the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch

from fastvae.likelihoods.means import SERIES
from fastvae.onnx.activations import LARGEST_EXPONENT, log1p
from fastvae.onnx.graph import Graph
from fastvae.onnx.scores import Samples
from fastvae.plan import Plan, Step
from fastvae_kernels.reference.special import gamma_ratio_half

# log((1 - exp(-a)) / a) + a / 2 in powers a², a⁴, ...: to float32 below 1, as the mean's SERIES are.
LOG_SERIES = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800)
NEAR = 1.0
# A distance in scales whose square is still a float32.
FAR = 1e18
TINY = float(torch.finfo(torch.float32).tiny)


class Lowering(Protocol):
    """The translation of a plan."""

    graph: Graph
    plan: Plan

    def samples(self, step: Step, x: str) -> Samples:
        """The draws of z for each row of the data ``x`` that ``step`` scores."""


def _inverse_scale(graph: Graph, log_scale: str) -> str:
    """exp(-log_scale), finite."""
    return graph.add("Exp", [graph.add("Min", [graph.add("Neg", [log_scale]), graph.number(LARGEST_EXPONENT)])])


def _total(graph: Graph, term: str, mask: str | None, samples: Samples) -> tuple[str, ...]:
    return (samples.total(term if mask is None else graph.add("Where", [mask, term, graph.number(0.0)])),)


def _of_rows(to: Lowering, step: Step, index: int, name: str, samples: Samples) -> str:
    """A further parameter; one that all rows share broadcasts as it is."""
    return name if step.inputs[index] in to.plan.weights else samples.split(name)


def _laplace_nll(to: Lowering, step: Step, location: str, log_scale: str, x: str, mask: str | None) -> tuple[str, ...]:
    graph, samples = to.graph, to.samples(step, x)
    s = _of_rows(to, step, 1, log_scale, samples)
    distance = graph.add("Abs", [graph.add("Sub", [x, samples.split(location)])])
    scaled = graph.add("Mul", [distance, _inverse_scale(graph, s)])
    return _total(graph, graph.add("Add", [scaled, graph.add("Add", [s, graph.number(math.log(2))])]), mask, samples)


def _student_t_nll(
    to: Lowering, step: Step, location: str, log_scale: str, log_df: str, x: str, mask: str | None
) -> tuple[str, ...]:
    """With r = |x - location| / (scale sqrt(ν)), log(1 + r²) is 2 log(max(r, 1)) + log1p(min(r, 1/r)²)."""
    graph, samples, name = to.graph, to.samples(step, x), step.outputs[0]
    log_nu = to.plan.weights[str(step.inputs[2])].detach().cpu().double().clamp(-60, 60)
    nu = log_nu.exp()
    normaliser = 0.5 * (log_nu + math.log(math.pi)) - gamma_ratio_half(0.5 * nu)
    half, power, offset = (
        graph.constant(f"{name}:{role}", value.float().numpy())
        for role, value in (("half", 0.5 * log_nu), ("power", 0.5 * (nu + 1)), ("offset", normaliser))
    )
    s = _of_rows(to, step, 1, log_scale, samples)
    log_spread = graph.add("Add", [s, half])
    distance = graph.add("Abs", [graph.add("Sub", [x, samples.split(location)])])
    r = graph.add("Mul", [distance, _inverse_scale(graph, log_spread)])
    one = graph.number(1.0)
    small = graph.add("Min", [r, graph.add("Div", [one, r])])
    near = graph.add("Log", [graph.add("Max", [r, one])])
    far = graph.add("Sub", [graph.add("Log", [graph.add("Max", [distance, graph.number(TINY)])]), log_spread])
    log_r = graph.add("Where", [graph.add("Less", [r, graph.number(FAR)]), near, far])
    logs = graph.add("Add", [graph.add("Add", [log_r, log_r]), log1p(graph, graph.add("Mul", [small, small]))])
    term = graph.add("Add", [graph.add("Mul", [power, logs]), graph.add("Add", [s, offset])])
    return _total(graph, term, mask, samples)


def _polynomial(graph: Graph, x: str, coefficients: tuple[float, ...]) -> str:
    """Σ c_k x^k."""
    value = graph.number(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = graph.add("Add", [graph.add("Mul", [value, x]), graph.number(coefficient)])
    return value


def _sizes(graph: Graph, logits: str) -> tuple[str, str, str]:
    """Whether |l| is small; |l| where it is, and where it is not."""
    size, limit = graph.add("Abs", [logits]), graph.number(NEAR)
    is_near = graph.add("Less", [size, limit])
    return is_near, graph.add("Min", [size, limit]), graph.add("Max", [size, limit])


def _complement(graph: Graph, far: str) -> str:
    """1 - exp(-a) for a of at least NEAR."""
    return graph.add("Sub", [graph.number(1.0), graph.add("Exp", [graph.add("Neg", [far])])])


def _continuous_bernoulli_nll(to: Lowering, step: Step, logits: str, x: str, mask: str | None) -> tuple[str, ...]:
    graph, samples = to.graph, to.samples(step, x)
    logits = samples.split(logits)
    is_near, near, far = _sizes(graph, logits)
    square = graph.add("Mul", [near, near])
    excess = graph.add("Mul", [square, _polynomial(graph, square, LOG_SERIES)])
    series = graph.add("Sub", [excess, graph.add("Mul", [near, graph.number(0.5)])])
    direct = graph.add("Sub", [graph.add("Log", [_complement(graph, far)]), graph.add("Log", [far])])
    linear = graph.add("Sub", [graph.add("Relu", [logits]), graph.add("Mul", [logits, x])])
    term = graph.add("Add", [linear, graph.add("Where", [is_near, series, direct])])
    return _total(graph, term, mask, samples)


def _categorical_nll(to: Lowering, step: Step, logits: str, x: str, mask: str | None) -> tuple[str, ...]:
    graph, samples = to.graph, to.samples(step, x)
    logs = graph.add("LogSoftmax", [samples.split(logits)], axis=-1)
    if mask is None:
        return (graph.add("Neg", [samples.total(graph.add("Mul", [x, logs]))]),)
    (axis,) = samples.axes
    last, zero = graph.integers(-1), graph.number(0.0)
    seen = graph.add("Where", [mask, x, zero])
    of_seen = graph.add("Neg", [samples.total(graph.add("Mul", [seen, logs]))])
    possible = graph.add("Where", [mask, graph.number(-1e30), logs])
    rest = graph.add("ReduceLogSumExp", [possible, graph.integers(axis)], keepdims=0)
    counted = graph.add("ReduceSum", [graph.add("Cast", [mask], to=1), last], keepdims=0)
    some = graph.add("Greater", [counted, zero])
    open_ = graph.add("Less", [counted, graph.number(float(samples.shape[0]))])
    none = graph.add("Less", [graph.add("ReduceSum", [seen, last], keepdims=0), graph.number(0.5)])
    undecided = graph.add("And", [graph.add("And", [some, open_]), none])
    unknown = graph.add("Where", [undecided, graph.add("Neg", [rest]), zero])
    return (graph.add("Relu", [graph.add("Add", [of_seen, samples.flat(unknown)])]),)


def _columns(to: Lowering, step: Step, x: str) -> tuple[str, ...]:
    bounds = [to.graph.integers(step.attributes[key]) for key in ("first", "last")]
    return (to.graph.add("Slice", [x, *bounds, to.graph.integers(1)]),)


def _concat(to: Lowering, _: Step, *parts: str) -> tuple[str, ...]:
    return (to.graph.add("Concat", list(parts), axis=1),)


def _log_softmax(to: Lowering, _: Step, x: str) -> tuple[str, ...]:
    return (to.graph.add("LogSoftmax", [x], axis=1),)


def _continuous_mean(graph: Graph, logits: str) -> str:
    is_near, near, far = _sizes(graph, logits)
    one, half = graph.number(1.0), graph.number(0.5)
    excess = graph.add("Mul", [near, _polynomial(graph, graph.add("Mul", [near, near]), SERIES)])
    inverse = graph.add("Div", [one, _complement(graph, far)])
    direct = graph.add("Sub", [inverse, graph.add("Div", [one, far])])
    above = graph.add("Where", [is_near, graph.add("Add", [half, excess]), direct])
    below = graph.add("Sub", [one, above])
    return graph.add("Where", [graph.add("Less", [logits, graph.number(0.0)]), below, above])


def _expectation(to: Lowering, step: Step, location: str, zero_logits: str | None) -> tuple[str, ...]:
    graph, likelihood = to.graph, step.attributes["likelihood"]
    if likelihood == "continuous_bernoulli":
        return (_continuous_mean(graph, location),)
    if likelihood == "categorical":
        return (graph.add("Softmax", [location], axis=1),)
    mean = graph.add("Exp", [graph.add("Min", [location, graph.number(LARGEST_EXPONENT)])])
    if zero_logits is None:
        return (mean,)
    return (graph.add("Mul", [mean, graph.add("Sigmoid", [graph.add("Neg", [zero_logits])])]),)


LIKELIHOODS: dict[str, Callable[..., tuple[str, ...]]] = {
    "laplace_nll": _laplace_nll,
    "student_t_nll": _student_t_nll,
    "continuous_bernoulli_nll": _continuous_bernoulli_nll,
    "categorical_nll": _categorical_nll,
    "columns": _columns,
    "concat": _concat,
    "log_softmax": _log_softmax,
    "expectation": _expectation,
}
