"""Fold a per-channel scale and shift (batch norm, de-standardisation) into the weights of the op before it.

act(W x + b) stays exact only where the op has no activation and adds no residual yet: scale * (W x + b) + shift is
again linear, with weights scale * W and bias scale * b + shift, both computed in float64.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fastvae.plan.plan import Plan, Step

# The axis of the weight that runs over output channels.
CHANNEL_AXIS = {"linear": 0, "conv2d": 0, "conv_transpose2d": 1}


def fold_affine(plan: Plan) -> Plan:
    """The plan with each affine step folded into the linear or convolution before it, where that is exact."""
    uses, weights, steps = plan.uses(), dict(plan.weights), list[Step]()
    for step in plan.steps:
        before = steps[-1] if steps else None
        if before and _foldable(before, step, weights) and uses[before.outputs[0]] == 1:
            steps[-1] = _fold(before, step, weights)
        else:
            steps.append(step)
    read = {name for step in steps for name in (*step.inputs, *step.outputs)} | {*plan.inputs, *plan.outputs}
    return replace(
        plan,
        steps=tuple(steps),
        weights={name: weight for name, weight in weights.items() if name in read},
        shapes={name: shape for name, shape in plan.shapes.items() if name in read},
    )


def _foldable(before: Step, step: Step, weights: dict[str, Tensor]) -> bool:
    if step.op != "affine" or step.inputs[1] is None or before.op not in CHANNEL_AXIS:
        return False
    per_channel = weights[step.inputs[1]].ndim == 1
    ungrouped = before.op != "conv_transpose2d" or before.attributes.get("groups", 1) == 1
    # A residual is added after activation: scaling it too would take a copy of it.
    plain = before.attributes.get("activation", "identity") == "identity" and len(before.inputs) == 3
    return per_channel and ungrouped and plain and before.outputs == step.inputs[:1]


def _fold(before: Step, step: Step, weights: dict[str, Tensor]) -> Step:
    x, weight_name, bias_name = before.inputs
    scale, shift = (weights[str(name)].double() for name in step.inputs[1:])
    weight = weights[str(weight_name)].double()
    bias = weights[bias_name].double() * scale + shift if bias_name else shift
    shape = [1] * weight.ndim
    shape[CHANNEL_AXIS[before.op]] = -1
    output = step.outputs[0]
    names = f"d:{output}.weight", f"d:{output}.bias"
    weights.update(zip(names, (weight * scale.reshape(shape), bias), strict=True))
    return Step(before.op, (x, *names), step.outputs, {**before.attributes, **step.attributes})
