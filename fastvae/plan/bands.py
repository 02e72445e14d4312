"""Bands of rows: how a step's result on a band of an image compares with its result on the whole.

A step that looks at neighbours pads the edges of what it is given with zeros. On a band, whose edges mostly lie inside
of the image, the rows near them come out wrong; how many is the band's margin. All other rows are those of the whole.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from fastvae.errors import UnsupportedError
from fastvae.plan.plan import Plan, Step

# Steps that compute each pixel by itself. A group norm does so once its statistics are known.
POINTWISE = ("add", "affine", "group_norm", "logvar", "split")


class Margin(NamedTuple):
    """Rows at the top and the bottom of a band that are not those of the whole image."""

    top: int
    bottom: int


NONE = Margin(0, 0)


def scales(plan: Plan) -> dict[str, Fraction]:
    """For each buffer its rows for each row of the plan's input.

    Raises:
        UnsupportedError: a step has no form in bands, or makes rows in another number than a multiple of those it gets.
    """
    found = dict.fromkeys(plan.inputs, Fraction(1))
    for step in plan.steps:
        read = [found[name] for name in _banded(plan, step)]
        if step.op not in (*POINTWISE, *_GEOMETRIES) or len(set(read)) != 1:
            raise UnsupportedError(f"max_memory: an image cannot be cut into bands for the op {step.op!r}")
        factor = _factor(plan, step)
        if factor is None:
            raise UnsupportedError(
                f"max_memory: an image cannot be cut into bands for {step.op} {step.inputs[1]!r}, whose padding makes "
                "its rows no multiple of those it is given"
            )
        found.update(dict.fromkeys(step.outputs, read[0] * factor))
    return found


def margin(plan: Plan, step: Step, margins: dict[str, Margin]) -> Margin:
    """The margin of what ``step`` makes, for those of the buffers it reads; none where ``margins`` names none."""
    given = [margins.get(name, NONE) for name in _banded(plan, step)]
    top, bottom = max(m.top for m in given), max(m.bottom for m in given)
    if step.op == "conv2d":
        return _convolved(plan, step, top, bottom)
    if step.op == "conv_transpose2d":
        return _transposed(plan, step, top, bottom)
    factor = step.attributes["factor"] if step.op == "upsample" else 1
    return Margin(factor * top, factor * bottom)


def whole(step: Step) -> tuple[str, ...]:
    """Buffers that a step has to see all of, whatever rows of its result are asked for."""
    return tuple(str(name) for name in step.inputs[1:]) if step.op == "attention" else ()


def _banded(plan: Plan, step: Step) -> list[str]:
    """The buffers of which it reads a band."""
    return [name for name in step.reads if name in plan.shapes and name not in whole(step)]


def _factor(plan: Plan, step: Step) -> Fraction | None:
    """Rows made for each row read, if it is the same for bands of all heights."""
    if step.op == "conv2d":
        (top, _, bottom, _), stride = step.attributes["padding"], step.attributes["stride"][0]
        surplus = top + bottom - _extent(plan, step)
        return Fraction(1, stride) if -stride < surplus <= 0 else None
    if step.op == "conv_transpose2d":
        a = step.attributes
        made = _extent(plan, step) + a["output_padding"][0] - 2 * a["padding"][0] + 1
        return Fraction(made) if made == a["stride"][0] else None
    return Fraction(step.attributes["factor"] if step.op == "upsample" else 1)


def _extent(plan: Plan, step: Step) -> int:
    """Rows between the first and the last that its kernel sees at once."""
    height = plan.weights[str(step.inputs[1])].shape[2]
    return int(step.attributes["dilation"][0] * (height - 1))


def _convolved(plan: Plan, step: Step, top: int, bottom: int) -> Margin:
    """Row o sees rows o * stride - padding and on."""
    stride, padding, extent = step.attributes["stride"][0], step.attributes["padding"][0], _extent(plan, step)
    return Margin(-(-(top + padding) // stride), -(-(1 + bottom - padding + extent) // stride) - 1)


def _transposed(plan: Plan, step: Step, top: int, bottom: int) -> Margin:
    """Row i adds to rows i * stride - padding and on, as row -1 would."""
    stride, padding, extent = step.attributes["stride"][0], step.attributes["padding"][0], _extent(plan, step)
    return Margin(max(0, (top - 1) * stride - padding + extent + 1), bottom * stride + padding)


_GEOMETRIES = ("attention", "conv2d", "conv_transpose2d", "upsample")
