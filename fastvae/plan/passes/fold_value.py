"""Fold attention's output projection into the projection of its values.

Attention averages values over pixels, and a linear map of an average is the average of what it makes of each: W (P v) =
P (W v) for one head. The bias, too, is averaged into itself, since weights of an average sum to one. One product less;
weights and bias in float64.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fastvae.plan.passes._rewrite import is_linear, is_product, rebuilt, rewrite
from fastvae.plan.plan import Plan, Step


def fold_value(plan: Plan) -> Plan:
    """The plan with the products around each attention of one head made one."""
    return rewrite(plan, _folded)


def _folded(plan: Plan, index: int) -> Plan | None:
    attention = plan.steps[index]
    if attention.op != "attention" or attention.attributes["heads"] != 1:
        return None
    uses = plan.uses()
    result, values = attention.outputs[0], str(attention.inputs[2])
    after = next((i for i, step in enumerate(plan.steps) if result in step.reads), None)
    before = plan.maker(values)
    if after is None or before is None or uses[result] != 1 or uses[values] != 1:
        return None
    value, output = plan.steps[before], plan.steps[after]
    if not (_is_pointwise(plan, value) and is_linear(value) and _is_pointwise(plan, output) and is_linear(output)):
        return None
    weight, bias = _composed(plan, value, output)
    names = f"d:{output.outputs[0]}.weight", f"d:{output.outputs[0]}.bias"
    made = {values: (weight.shape[0], *plan.shapes[values][1:])}
    steps = list(plan.steps)
    steps[before] = replace(value, inputs=(value.inputs[0], names[0], None if bias is None else names[1]))
    steps[index] = replace(attention, outputs=output.outputs)
    del steps[after]
    derived = {names[0]: weight} | ({} if bias is None else {names[1]: bias})
    return rebuilt(plan, steps, derived, made)


def _is_pointwise(plan: Plan, step: Step) -> bool:
    if not (step.op == "conv2d" and is_product(step)):
        return False
    a = step.attributes
    plain = a["stride"] == (1, 1) and max(a["padding"]) == 0 and a["groups"] == 1
    return plain and tuple(plan.weights[str(step.inputs[1])].shape[2:]) == (1, 1)


def _composed(plan: Plan, first: Step, second: Step) -> tuple[Tensor, Tensor | None]:
    """Weight [out, in, 1, 1] and bias [out] of ``second`` after ``first``; None without a bias in either."""
    inner, outer = (plan.weights[str(step.inputs[1])].double()[:, :, 0, 0] for step in (first, second))
    bias = None if second.inputs[2] is None else plan.weights[second.inputs[2]].double()
    if first.inputs[2] is not None:
        through = outer @ plan.weights[first.inputs[2]].double()
        bias = through if bias is None else bias + through
    return (outer @ inner)[:, :, None, None], bias
