"""Merge two products of one input into a single one with stacked weights, as the heads for mean and log-variance are.

The input is read once instead of twice, and one launch does what two did; the halves of the result are views.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastvae.layers import Shape
from fastvae.plan.passes._rewrite import OUTPUT_AXIS, is_product, rebuilt, rewrite
from fastvae.plan.passes.prune import prune
from fastvae.plan.plan import Plan, Step


def merge_heads(plan: Plan) -> Plan:
    """The plan with sibling products of equal widths and attributes merged, their results split off as views."""
    return rewrite(plan, _merged)


def _merged(plan: Plan, index: int) -> Plan | None:
    first = plan.steps[index]
    second = next((step for step in plan.steps[index + 1 :] if _siblings(plan, first, step)), None)
    if second is None:
        return None
    halves = (first.outputs[0], second.outputs[0])
    joint = "+".join(halves)
    weights = [_weight(plan, step) for step in (first, second)]
    derived = {f"d:{joint}.weight": torch.cat(weights, OUTPUT_AXIS[first.op])}
    bias = None
    if first.inputs[2] or second.inputs[2]:
        bias = f"d:{joint}.bias"
        channels = plan.shapes[halves[0]][0]
        derived[bias] = torch.cat([_bias(plan, step, channels) for step in (first, second)])
    merged = Step(first.op, (first.inputs[0], f"d:{joint}.weight", bias), (joint,), first.attributes)
    split = Step("split", (joint,), halves, {"layout": "chunked"})
    kept = [step for step in plan.steps if step is not second]
    channels, *size = plan.shapes[halves[0]]
    steps = [*kept[:index], merged, split, *kept[index + 1 :]]
    return prune(rebuilt(plan, steps, derived, {joint: (2 * channels, *size)}))


def _siblings(plan: Plan, a: Step, b: Step) -> bool:
    """Whether two steps are the same product of the same input, but for the numbers in their weights."""
    if not (is_product(a) and is_product(b) and a.op == b.op and _viewed(plan, a) == _viewed(plan, b)):
        return False
    ungrouped = a.attributes.get("groups", 1) == 1  # grouped outputs could not be stacked group by group as halves
    same_weights = plan.weights[str(a.inputs[1])].shape == plan.weights[str(b.inputs[1])].shape
    return ungrouped and same_weights and a.attributes == b.attributes


def _viewed(plan: Plan, step: Step) -> tuple[str, Shape]:
    """What the step's input looks at through reshapes, and in what shape: two heads may each have a flatten."""
    name = str(step.inputs[0])
    shape = plan.shapes[name]
    while (index := plan.maker(name)) is not None and plan.steps[index].op == "reshape":
        name = str(plan.steps[index].inputs[0])
    return name, shape


def _weight(plan: Plan, step: Step) -> Tensor:
    return plan.weights[str(step.inputs[1])].double()


def _bias(plan: Plan, step: Step, channels: int) -> Tensor:
    if step.inputs[2] is None:
        return torch.zeros(channels, dtype=torch.float64)
    return plan.weights[step.inputs[2]].double()
