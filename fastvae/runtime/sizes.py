"""One plan for images of any size: its steps stay, only the shapes of what they make differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from fastvae.layers import Shape
from fastvae.plan import Plan, Step, pixel_shape
from fastvae.runtime.executor import Executor

META = torch.device("meta")


# Steps whose results have the shape of what they read.
SAME = ("add", "affine", "group_norm", "logvar")


def resized(plan: Plan, inputs: Mapping[str, Shape], dtype: torch.dtype) -> Plan:
    """``plan`` for inputs of these shapes of a row; what its steps make is shaped accordingly, without computing.

    They must fit images of any size.
    """
    shapes = {name: inputs[name] for name in plan.inputs}
    for step in plan.steps:
        made = _made(plan, step, shapes)
        if made is None:
            return _traced(plan, inputs, dtype)
        shapes.update({name: made if plan.shapes[name] else () for name in step.outputs})  # () is a row's mark
    return replace(plan, shapes=shapes)


def _made(plan: Plan, step: Step, shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape of a row of each of the step's results, for those of what it reads; None where no rule says so."""
    shape, a = shapes[str(step.inputs[0])], step.attributes
    match step.op:
        case "to_bytes":
            return pixel_shape(shape)
        case "conv2d" | "conv_image":
            outputs, _, *taps = plan.weights[str(step.inputs[1])].shape
            paddings, ends = a["padding"][:2], a["padding"][2:]
            sizes = zip(shape[1:], paddings, ends, taps, a["stride"], a["dilation"], strict=True)
            size = ((n + p + q - d * (k - 1) - 1) // s + 1 for n, p, q, k, s, d in sizes)
            return (*size, outputs) if step.op == "conv_image" else (outputs, *size)
        case "conv_transpose2d":
            _, outputs, *taps = plan.weights[str(step.inputs[1])].shape
            sizes = zip(shape[1:], a["padding"], a["output_padding"], taps, a["stride"], a["dilation"], strict=True)
            widened = ((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, p, o, k, s, d in sizes)
            return (outputs * a["groups"], *widened)
        case "upsample":
            return (shape[0], *(a["factor"] * n for n in shape[1:]))
        case "attention":
            return (shapes[str(step.inputs[2])][0], *shape[1:])
        case "split":
            return (shape[0] // 2, *shape[1:])
        case _:
            return shape if step.op in SAME else None


def _traced(plan: Plan, inputs: Mapping[str, Shape], dtype: torch.dtype) -> Plan:
    """:func:`resized` by running the steps on meta tensors, for which PyTorch imports a compiler, of 140 MB."""
    weights = {name: weight.to(META) for name, weight in plan.weights.items()}
    everything = replace(plan, outputs=tuple(plan.shapes), weights=weights)
    dtypes = {name: torch.bool if name == "mask" else dtype for name in plan.inputs}
    given = {name: torch.empty(1, *inputs[name], dtype=dtypes[name], device=META) for name in plan.inputs}
    made = Executor(everything, impl="reference", device=META, dtype=dtype)(given)
    shapes = {name: tuple(row.shape[1:]) for name, row in zip(everything.outputs, made, strict=True)}
    return replace(plan, shapes=shapes)
