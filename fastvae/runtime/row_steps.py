"""Steps of a plan as the compiled kernels take them: a table that one call walks over, row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvae.layers import Shape
from fastvae.plan import Plan, Step
from fastvae_kernels.cpu import GIVEN, DenseSteps, why_not


@dataclass(frozen=True)
class RowSteps:
    """All steps of a plan, the places of its outputs among what they make, and the shape those have a row."""

    steps: DenseSteps
    outputs: Sequence[int]
    shape: Shape


def row_steps(plan: Plan, ops: Collection[str] | None = None) -> RowSteps | None:
    """``plan``, in float32 on the CPU, on its inputs in their order; None where the compiled kernels cannot have it.

    That is where they are not there, where outputs have several shapes, where a step has no form or none with its
    attributes, or is not of ``ops``, or where a row's results have no room.
    """
    shapes = {plan.shapes[name] for name in plan.outputs}
    if why_not() or len(shapes) != 1 or not all(ops is None or step.op in ops for step in plan.steps):
        return None
    try:
        steps, outputs = _Translation(plan).run()
    except NoFormError:
        return None
    return RowSteps(steps, outputs, shapes.pop()) if steps.fits else None


class NoFormError(Exception):
    """A step that the compiled kernels have no form for."""


class _Translation:
    """The steps so far, and the place of each buffer of the plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.steps = plan, DenseSteps()
        self.places = {name: GIVEN - index for index, name in enumerate(plan.inputs)}

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
    if step.attributes["layout"] != "chunked" or place <= GIVEN:
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
