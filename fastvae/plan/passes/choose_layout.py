"""Keep images with their channels innermost from the first image op to the last.

Kernels read and write pixels as rows of channels, and copy images that come otherwise. So images are brought into that
order once, where they enter; where dense layers make or read them, the layers' weights are permuted instead. Only where
numbers lie in memory changes: shapes stay (channels, height, width).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fastvae.layers import Shape
from fastvae.plan.passes._rewrite import rebuilt, rewrite
from fastvae.plan.plan import Plan, Step

IMAGE_OPS = ("conv2d", "conv_image", "conv_transpose2d", "group_norm", "attention")
# Makers of images with channels outermost, besides the caller.
OTHERWISE = ("reshape", "join")


def choose_layout(plan: Plan) -> Plan:
    """The plan with images between its ops in channels_last memory, as far as that is for free but at its inputs."""
    return _entered(rewrite(rewrite(plan, _unflattened), _flattened))


def _unflattened(plan: Plan, index: int) -> Plan | None:
    """A dense layer whose output only image ops read, reshaped: its outputs permuted."""
    step = plan.steps[index]
    output = step.outputs[0]
    shape = plan.shapes[output]
    if not (_is_plain_reshape(step) and _matters(shape)):
        return None
    flat = str(step.inputs[0])
    before = plan.maker(flat)
    if before is None or not _is_dense(plan.steps[before]) or plan.uses()[flat] > 1:
        return None
    if output in plan.outputs or not all(reader.op in IMAGE_OPS for reader in _readers(plan, output)):
        return None
    dense, order = plan.steps[before], _innermost(shape)
    names = [None if name is None else f"d:{output}.{role}" for name, role in zip(dense.inputs[1:], "wb", strict=True)]
    weights = {
        new: plan.weights[str(old)][order] for new, old in zip(names, dense.inputs[1:], strict=True) if new is not None
    }
    steps = list(plan.steps)
    steps[before] = replace(dense, inputs=(dense.inputs[0], *names))
    steps[index] = _with_channels_last(step)
    return rebuilt(plan, steps, weights)


def _flattened(plan: Plan, index: int) -> Plan | None:
    """An image that an op has made and only dense layers read, flattened: their inputs permuted."""
    step = plan.steps[index]
    if not _is_plain_reshape(step) or not _matters(plan.shapes[str(step.inputs[0])]):
        return None
    image, output = str(step.inputs[0]), step.outputs[0]
    maker, readers = plan.maker(image), _readers(plan, output)
    if maker is None or plan.steps[maker].op in OTHERWISE or output in plan.outputs:
        return None
    if len(plan.shapes[output]) != 1 or not all(_is_dense(reader) and reader.inputs[0] == output for reader in readers):
        return None
    order = _innermost(plan.shapes[image])
    weights: dict[str, Tensor] = {}
    steps = list(plan.steps)
    for at, reader in enumerate(plan.steps):
        if reader in readers:
            x, weight, bias = reader.inputs
            weights[f"d:{reader.outputs[0]}.w"] = plan.weights[str(weight)][:, order]
            steps[at] = replace(reader, inputs=(x, f"d:{reader.outputs[0]}.w", bias))
    steps[index] = _with_channels_last(step)
    return rebuilt(plan, steps, weights)


def _entered(plan: Plan) -> Plan:
    """What image ops read of the caller's images, or of others in the usual order, brought into this one once."""
    otherwise = set(plan.inputs)
    steps = list[Step]()
    moved: dict[str, str] = {}

    def innermost(name: str | None) -> str | None:
        if name not in otherwise or not _matters(plan.shapes[name]):
            return name
        if name not in moved:
            moved[name] = f"{name}.innermost"
            steps.append(Step("channels_last", (name,), (moved[name],)))
        return moved[name]

    for step in plan.steps:
        if step.op in OTHERWISE and "channels_last" not in step.attributes:
            otherwise.update(step.outputs)
        if step.op in IMAGE_OPS:
            keywords = {key: str(innermost(name)) for key, name in step.keywords.items()}
            step = replace(step, inputs=tuple(map(innermost, step.inputs)), keywords=keywords)
        steps.append(step)
    return rebuilt(plan, steps, shapes={new: plan.shapes[old] for old, new in moved.items()})


def _is_plain_reshape(step: Step) -> bool:
    return step.op == "reshape" and "channels_last" not in step.attributes


def _is_dense(step: Step) -> bool:
    return step.op == "linear" and len(step.inputs) == 3 and not step.keywords


def _matters(shape: Shape) -> bool:
    """Whether an image has two orders; one channel's numbers are where they are in both, but its strides tell."""
    return len(shape) == 3 and math.prod(shape[1:]) > 1


def _readers(plan: Plan, name: str) -> list[Step]:
    return [step for step in plan.steps if name in step.reads]


def _innermost(shape: Shape) -> Tensor:
    """Where each number of an image with channels innermost is in one with channels outermost."""
    return torch.arange(math.prod(shape)).reshape(shape).permute(1, 2, 0).flatten()


def _with_channels_last(step: Step) -> Step:
    return replace(step, attributes={**step.attributes, "channels_last": True})
