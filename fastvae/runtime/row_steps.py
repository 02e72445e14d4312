"""Steps of a plan as the compiled kernels take them: a table that one call walks over, row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastvae.layers import Shape
from fastvae.plan import Plan, Step, output_dtypes
from fastvae_kernels.cpu import (
    GIVEN,
    Image,
    Padding,
    RowProgram,
    StepTable,
    Windows,
    convolution,
    padding_for,
    transposed,
    why_not,
)

# Channels of a result that are made one by one, and of an image that is read so: side by side they leave most of a
# vector unused. And columns from which that pays.
FEW_CHANNELS, LEAST_COLUMNS = 4, 8


@dataclass(frozen=True)
class RowSteps:
    """All steps of a plan, and the shapes and dtypes of its outputs."""

    program: RowProgram
    shapes: Sequence[Shape]
    dtypes: Sequence[np.dtype[np.float32]]


def row_steps(plan: Plan, ops: Collection[str] | None = None) -> RowSteps | None:
    """``plan``, in float32 on the CPU, on its inputs in their order and the noise that it draws, if any.

    None where the compiled kernels cannot have it: where they are not there, or where a step has no form, none with its
    attributes, or is not of ``ops``.
    """
    if why_not() or not all(ops is None or step.op in ops for step in plan.steps):
        return None
    try:
        program = _Translation(plan).run()
    except NoFormError:
        return None
    dtypes = [torch.empty(0, dtype=dtype).numpy().dtype for dtype in output_dtypes(plan, torch.float32)]
    return RowSteps(program, [plan.shapes[name] for name in plan.outputs], dtypes)


class NoFormError(Exception):
    """A step that the compiled kernels have no form for."""


class _Translation:
    """The steps so far, and where each buffer of the plan lies: in a row, as an image for convolutions, or both."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.table = plan, StepTable()
        drawn = [step.outputs[0] for step in plan.steps if step.op == "sample_normal"]
        self.places = {name: GIVEN - index for index, name in enumerate((*plan.inputs, *drawn))}
        self.images: dict[str, list[Image]] = {}

    def run(self) -> RowProgram:
        """The whole plan. NoFormError where a step has no form."""
        for step in self.plan.steps:
            if step.op in WINDOWED:
                self._convolve(step)
                continue
            form = FORMS.get(step.op)
            if form is None:
                raise NoFormError
            for name, place in zip(step.outputs, form(self, step), strict=True):
                self.places[name] = place
        outputs = self.plan.outputs
        return self.table.program([self.place(name) for name in outputs], [self.size(name) for name in outputs])

    def place(self, name: str | None) -> int:
        """Where the buffer ``name`` lies in a row; NoFormError for a weight."""
        if name in self.images and name not in self.places:
            flat = self.table.flat(self.plan.shapes[name])
            self.table.copy(self.images[name][0], flat)
            self.places[name] = flat.place
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

    def _convolve(self, step: Step) -> None:
        x, _, bias = step.inputs
        channels, height, width = self.plan.shapes[str(x)]
        result = self.plan.shapes[step.outputs[0]]
        windows, by_one = self._windows(step)
        padding = padding_for(windows, (height, width))
        source = self._image(str(x), padding, planar=by_one or channels <= FEW_CHANNELS)
        target = self.table.flat(result) if by_one else self.table.image(result, self._wanted(step.outputs[0]))
        self.table.convolve(source, target, windows, self.weight(bias), *_activation(step))
        if by_one:
            self.places[step.outputs[0]] = target.place
        else:
            self.images[step.outputs[0]] = [target]

    def _windows(self, step: Step) -> tuple[list[Windows], bool]:
        """The windows of a convolution, and whether the channels of its result are made one by one."""
        x, weight, _ = step.inputs
        filters, a = self.weight(weight), step.attributes
        if filters is None or step.keywords or a["groups"] != 1 or tuple(a["dilation"]) != (1, 1):
            raise NoFormError
        values = filters.detach().to("cpu", torch.float32).numpy()
        _, height, width = self.plan.shapes[str(x)]
        channels, *size = self.plan.shapes[step.outputs[0]]
        if step.op == "conv2d":
            windows = convolution(values, a["stride"], a["padding"], (height, width))
        else:
            windows = transposed(values, a["stride"], a["padding"], (size[0], size[1]))
        if not windows:
            raise NoFormError
        by_one = all(own.stride == (1, 1) for own in windows) and size[1] >= LEAST_COLUMNS
        return windows, by_one and channels <= FEW_CHANNELS

    def _wanted(self, name: str) -> Padding:
        """The zeros around the image ``name`` that those who read it side by side need."""
        channels, height, width = self.plan.shapes[name]
        found: list[Padding] = [(0, 0, 0, 0)]
        for step in self.plan.steps:
            if step.op in WINDOWED and step.inputs[0] == name:
                windows, by_one = self._windows(step)
                if not by_one and channels > FEW_CHANNELS:
                    found.append(padding_for(windows, (height, width)))
        top, left, bottom, right = (max(sides) for sides in zip(*found, strict=True))
        return top, left, bottom, right

    def _image(self, name: str, padding: Padding, *, planar: bool) -> Image:
        """The buffer ``name`` as an image with at least so many zeros around it."""
        known = self.images.setdefault(name, [])
        for image in known:
            if image.planar == planar and all(have >= want for have, want in zip(image.padding, padding, strict=True)):
                return image
        channels, height, width = shape = self.plan.shapes[name]
        source = known[0] if known else Image(self.place(name), channels, height, width)
        made = self.table.image(shape, padding, planar=planar)
        self.table.copy(source, made)
        known.append(made)
        return made


def _linear(to: _Translation, step: Step) -> tuple[int, ...]:
    x, weight, bias = step.inputs
    matrix = to.weight(weight)
    if matrix is None or len(to.plan.shapes[str(x)]) != 1:
        raise NoFormError
    place = to.table.linear(to.place(x), matrix, to.weight(bias), *_activation(step))
    if "residual" in step.keywords:
        place = to.table.add(place, to.place(step.keywords["residual"]), to.size(step.outputs[0]))
    return (place,)


def _affine(to: _Translation, step: Step) -> tuple[int, ...]:
    x, scale, shift = step.inputs
    return (to.table.affine(to.place(x), to.flat(scale, x, 1.0), to.flat(shift, x, 0.0), *_activation(step)),)


def _activation(step: Step) -> tuple[str, float | None]:
    return step.attributes.get("activation", "identity"), step.attributes.get("alpha")


def _add(to: _Translation, step: Step) -> tuple[int, ...]:
    x, other = step.inputs
    return (to.table.add(to.place(x), to.place(other), to.size(x)),)


def _reshape(to: _Translation, step: Step) -> tuple[int, ...]:
    return (to.place(step.inputs[0]),)


def _split(to: _Translation, step: Step) -> tuple[int, ...]:
    place, size = to.place(step.inputs[0]), to.size(step.outputs[0])
    if place <= GIVEN:
        raise NoFormError
    if step.attributes["layout"] == "interleaved":
        count = to.plan.shapes[step.outputs[0]][0]  # of channels, where it is an image
        first, second = (to.table.columns(place, which, 2, count, size // count) for which in (0, 1))
        return first, second
    return place, place + size


def _to_bytes(to: _Translation, step: Step) -> tuple[int, ...]:
    (x,), a = step.inputs, step.attributes
    shape = to.plan.shapes[str(x)]
    channels = shape[0] if len(shape) == 3 else 1
    return to.table.pixels(to.place(x), channels, math.prod(shape) // channels, a["scale"], a["shift"])


def _logvar(to: _Translation, step: Step) -> tuple[int, ...]:
    (raw,), a = step.inputs, step.attributes
    if a["parametrization"] != "logvar":
        raise NoFormError
    least, most = (default if a[key] is None else a[key] for key, default in BOUNDS.items())
    return (to.table.clamp(to.place(raw), to.size(raw), least, most),)


def _kl(to: _Translation, step: Step) -> tuple[int, ...]:
    mean, logvar = step.inputs
    return (to.table.divergence(to.place(mean), to.place(logvar), to.size(mean)),)


def _scored(to: _Translation, step: Step, likelihood: str) -> tuple[int, ...]:
    output, x, *mask = step.inputs
    if any(mask):
        raise NoFormError
    return (to.table.score(likelihood, to.place(output), to.place(x), to.size(output)),)


def _gaussian_nll(to: _Translation, step: Step) -> tuple[int, ...]:
    mean, logvar, x, mask = step.inputs
    if mask is not None:
        raise NoFormError
    of = to.place(mean), to.place(x), to.size(mean)
    if logvar in to.places:
        return (to.table.score("gaussian", *of, logvar=to.place(logvar)),)
    return (to.table.score("gaussian", *of, constant=to.flat(logvar, mean, 0.0)),)


BOUNDS = {"minimum": -math.inf, "maximum": math.inf}
WINDOWED = ("conv2d", "conv_transpose2d")
FORMS: dict[str, Callable[[_Translation, Step], tuple[int, ...]]] = {
    "linear": _linear,
    "affine": _affine,
    "add": _add,
    "reshape": _reshape,
    "sample_normal": lambda to, step: (to.places[step.outputs[0]],),
    "split": _split,
    "to_bytes": _to_bytes,
    "logvar": _logvar,
    "kl": _kl,
    "bernoulli_nll": lambda to, step: _scored(to, step, "bernoulli"),
    "squared_error": lambda to, step: _scored(to, step, "squared_error"),
    "gaussian_nll": _gaussian_nll,
}
