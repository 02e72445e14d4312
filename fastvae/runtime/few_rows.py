"""A plan of small dense layers on a few rows, in one call of the compiled kernels.

A session takes some microseconds for itself and one or two a node, which of a small model's few rows is most of the
time. Batches of more rows are the session's: its products are the faster ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvae.layers import Shape
from fastvae.plan import Plan, Step
from fastvae.runtime.direct_call import Values
from fastvae_kernels.cpu import GIVEN, DenseCall, DenseSteps, why_not

# Rows of a call at most, fewer where they would be more multiplications than this: beyond, sessions are sooner done.
MOST_ROWS = 32
MOST_PRODUCTS = 2**19
# Of packed weights, which each verb's plan has for itself; within the second cache of a core.
MOST_BYTES = 2**20


class NoFormError(Exception):
    """A step that the compiled kernels have no form for."""


@dataclass(frozen=True)
class FewRows:
    """A plan as the compiled kernels take it: steps, places and shape of the outputs, and for how many rows it pays."""

    steps: DenseSteps
    outputs: Sequence[int]
    shape: Shape
    most: int

    def call(self, given: Shape, values: Values, limit: int) -> DenseCall:
        """The plan as a function of at most ``limit`` rows of the shape ``given``, which are to be ``values``."""
        return DenseCall(self.steps, given, self.outputs, self.shape, values, min(self.most, limit))


def few_rows(plan: Plan) -> FewRows | None:
    """``plan``, in float32 on the CPU, for a few rows of its only input; None where that is better left to others."""
    shapes = {plan.shapes[name] for name in plan.outputs}
    products = sum(plan.weights[str(step.inputs[1])].numel() for step in plan.steps if step.op == "linear")
    if why_not() or len(plan.inputs) != 1 or len(shapes) != 1 or not 0 < products * 4 <= MOST_BYTES:
        return None
    try:
        steps, outputs = _Translation(plan).run()
    except NoFormError:
        return None
    return FewRows(steps, outputs, shapes.pop(), min(MOST_ROWS, MOST_PRODUCTS // products)) if steps.fits else None


class _Translation:
    """The steps so far, and the place of each buffer of the plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.steps = plan, DenseSteps()
        self.places = {plan.inputs[0]: GIVEN}

    def run(self) -> tuple[DenseSteps, list[int]]:
        """The whole plan: its steps, and the places of its outputs. NoFormError where a step has no form."""
        for step in self.plan.steps:
            form = FORMS.get(step.op)
            if form is None:
                raise NoFormError
            for name, place in zip(step.outputs, form(self, step), strict=True):
                self.places[name] = place
        return self.steps, [self.places[name] for name in self.plan.outputs]

    def place(self, name: str | None) -> int:
        """Where the buffer ``name`` lies; NoFormError for a weight."""
        if name not in self.places:
            raise NoFormError
        return self.places[name]

    def size(self, name: str | None) -> int:
        """Entries of a row of the buffer ``name``."""
        return math.prod(self.plan.shapes[str(name)])

    def weight(self, name: str | None) -> Tensor | None:
        """The weight ``name``; NoFormError for a buffer."""
        if name is not None and name not in self.plan.weights:
            raise NoFormError
        return None if name is None else self.plan.weights[name]

    def flat(self, name: str | None, like: str | None, missing: float) -> Tensor:
        """The weight ``name`` for each entry of a row of ``like``, whose first axis it may have alone."""
        shape, weight = self.plan.shapes[str(like)], self.weight(name)
        if weight is None:
            return torch.full((math.prod(shape),), missing)
        if weight.ndim == 1 and len(shape) > 1:
            weight = weight.reshape(-1, *[1] * (len(shape) - 1))
        return weight.expand(shape).flatten()


def _linear(to: _Translation, step: Step) -> tuple[int, ...]:
    x, weight, bias = step.inputs
    matrix = to.weight(weight)
    if matrix is None or len(to.plan.shapes[str(x)]) != 1:
        raise NoFormError
    place = to.steps.linear(to.place(x), matrix, to.weight(bias), *_activation(step))
    if "residual" in step.keywords:
        place = to.steps.add(place, to.place(step.keywords["residual"]), to.size(step.outputs[0]))
    return (place,)


def _affine(to: _Translation, step: Step) -> tuple[int, ...]:
    x, scale, shift = step.inputs
    return (to.steps.affine(to.place(x), to.flat(scale, x, 1.0), to.flat(shift, x, 0.0), *_activation(step)),)


def _activation(step: Step) -> tuple[str, float | None]:
    return step.attributes.get("activation", "identity"), step.attributes.get("alpha")


def _add(to: _Translation, step: Step) -> tuple[int, ...]:
    x, other = step.inputs
    return (to.steps.add(to.place(x), to.place(other), to.size(x)),)


def _reshape(to: _Translation, step: Step) -> tuple[int, ...]:
    return (to.place(step.inputs[0]),)


def _split(to: _Translation, step: Step) -> tuple[int, ...]:
    place = to.place(step.inputs[0])
    if step.attributes["layout"] != "chunked" or place == GIVEN:
        raise NoFormError
    return place, place + to.size(step.outputs[0])


def _logvar(to: _Translation, step: Step) -> tuple[int, ...]:
    (raw,), a = step.inputs, step.attributes
    if a["parametrization"] != "logvar":
        raise NoFormError
    least, most = (default if a[key] is None else a[key] for key, default in BOUNDS.items())
    return (to.steps.clamp(to.place(raw), to.size(raw), least, most),)


def _kl(to: _Translation, step: Step) -> tuple[int, ...]:
    mean, logvar = step.inputs
    return (to.steps.divergence(to.place(mean), to.place(logvar), to.size(mean)),)


def _scored(to: _Translation, step: Step, likelihood: str) -> tuple[int, ...]:
    output, x, *mask = step.inputs
    if any(mask):
        raise NoFormError
    return (to.steps.score(likelihood, to.place(output), to.place(x), to.size(output)),)


def _gaussian_nll(to: _Translation, step: Step) -> tuple[int, ...]:
    mean, logvar, x, mask = step.inputs
    if mask is not None:
        raise NoFormError
    of = to.place(mean), to.place(x), to.size(mean)
    if logvar in to.places:
        return (to.steps.score("gaussian", *of, logvar=to.place(logvar)),)
    return (to.steps.score("gaussian", *of, constant=to.flat(logvar, mean, 0.0)),)


BOUNDS = {"minimum": -math.inf, "maximum": math.inf}
FORMS: dict[str, Callable[[_Translation, Step], tuple[int, ...]]] = {
    "linear": _linear,
    "affine": _affine,
    "add": _add,
    "reshape": _reshape,
    "split": _split,
    "logvar": _logvar,
    "kl": _kl,
    "bernoulli_nll": lambda to, step: _scored(to, step, "bernoulli"),
    "squared_error": lambda to, step: _scored(to, step, "squared_error"),
    "gaussian_nll": _gaussian_nll,
}
