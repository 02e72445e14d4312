"""Store what would leave float16's range divided by powers of two, which group norms and later weights undo.

A convolution's result is divided by 2^e through its weight and bias, and what is added to it alike: all buffers between
which there are only sums and moves have one e. A product that reads them has its weight multiplied. A group norm does
not see the factor but for its eps, which is divided by 4^e. So outputs are the same numbers, in float32 and float64 to
the bit unless something becomes too small to be normal there. In float16 weights divided by 2^e may well become so:
they keep an absolute accuracy of 2^-25, which for weights of 2^(e-12) and more is what rounding them costs anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fastvae.plan.passes._rewrite import rebuilt
from fastvae.plan.plan import Plan, Step

# Steps with a weight and a bias behind what they multiply; those that read pixels or data besides make no image.
PRODUCTS = ("conv2d", "conv2d_statistics", "conv_image", "conv_score", "conv_transpose2d", "linear")
IMAGES = ("conv2d", "conv2d_statistics", "conv_transpose2d", "linear")
NORMS = ("group_norm", "norm_by_statistics")
# Steps whose operands and results have one factor.
ALIKE = ("add", "channels_last", "columns", "narrow", "pad", "reshape", "split", "upsample")
# Activations of a product that a positive factor passes.
HOMOGENEOUS = ("identity", "leaky_relu", "relu")
# What a buffer's largest number is brought below: a sixteenth of float16's range, for rows larger than those measured.
LIMIT = 2.0**12


def scalable(plan: Plan) -> tuple[frozenset[str], ...]:
    """Sets of buffers, each of which may be divided by a power of two of its own."""
    groups = {name: {name} for name in plan.shapes}
    fixed = {*plan.inputs, *plan.outputs}
    for step in plan.steps:
        tied, held = _demands(plan, step)
        fixed.update(held)
        merged = set().union(*(groups[name] for name in tied))
        groups.update(dict.fromkeys(merged, merged))
    written = [groups[name] for step in plan.steps for name in step.outputs if groups[name].isdisjoint(fixed)]
    return tuple(dict.fromkeys(map(frozenset, written)))


def rescale(plan: Plan, largest: Mapping[str, float]) -> Plan:
    """The plan with buffers of which ``largest`` names a magnitude beyond LIMIT divided by powers of two, with all that
    :func:`scalable` has beside them."""
    powers: dict[str, int] = {}
    for group in scalable(plan):
        most = max(largest.get(name, 0.0) for name in group)
        if LIMIT < most < math.inf:
            powers |= dict.fromkeys(group, math.ceil(math.log2(most / LIMIT)))
    if not powers:
        return plan
    weights: dict[str, Tensor] = {}
    return rebuilt(plan, [_scaled(plan, step, powers, weights) for step in plan.steps], weights)


def _demands(plan: Plan, step: Step) -> tuple[list[str], list[str]]:
    """Buffers of a step that must have one factor, and those that must have none."""
    read = [name for name in step.reads if name in plan.shapes]
    if step.op in NORMS:  # statistics are those of the image as it is stored
        return [], [step.outputs[0]]
    if step.op == "attention":  # linear in its values alone
        return [str(step.inputs[2]), *step.outputs], [str(name) for name in step.inputs[:2]]
    if step.op in ALIKE:
        return [*read, *step.outputs], []
    if step.op not in PRODUCTS or not step.keywords.keys() <= {"residual"}:
        return [], [*read, *step.outputs]
    if step.op not in IMAGES or step.attributes.get("activation", "identity") not in HOMOGENEOUS:
        return [], [*read[1:], *step.outputs]
    return [*step.keywords.values(), step.outputs[0]], list(step.outputs[1:])


def _scaled(plan: Plan, step: Step, powers: Mapping[str, int], weights: dict[str, Tensor]) -> Step:
    """The step for operands and results divided by two to these powers; its new weights are put to the others."""
    x = powers.get(str(step.inputs[0]), 0) if step.inputs else 0
    if step.op in NORMS:
        return replace(step, attributes={**step.attributes, "eps": math.ldexp(step.attributes["eps"], -2 * x)})
    if step.op not in PRODUCTS:
        return step
    y = powers.get(step.outputs[0], 0)
    inputs = list(step.inputs)
    for index, role, power in ((1, "weight", x - y), (2, "bias", -y)):
        if power and (name := inputs[index]) is not None:
            inputs[index] = f"d:{step.outputs[0]}.rescaled.{role}"
            wide = torch.promote_types(plan.weights[name].dtype, torch.float32)
            weights[str(inputs[index])] = plan.weights[name].to(wide) * 2.0**power
    return replace(step, inputs=tuple(inputs))
