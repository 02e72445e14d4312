"""Fold a scale and shift (batch norm, de-standardisation) into the weights of the product before it.

act(W x + b) stays exact only where the product has no activation and adds no residual yet: scale * (W x + b) + shift is
again linear, with weights scale * W and bias scale * b + shift, both computed in float64. A product has one number of
each for an output channel, so scale and shift must not vary within one; a linear layer's channels are its outputs.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fastvae.plan.passes._affine import channel_vectors, has_parameters
from fastvae.plan.passes._rewrite import OUTPUT_AXIS, absorbed, is_linear, is_product, rebuilt, rewrite, source
from fastvae.plan.plan import Plan, Step


def fold_affine(plan: Plan) -> Plan:
    """The plan with each affine step folded into the product before it, also through reshapes, where that is exact."""
    return rewrite(plan, _folded)


def _folded(plan: Plan, index: int) -> Plan | None:
    step = plan.steps[index]
    before = source(plan, str(step.inputs[0])) if has_parameters(step) else None
    if before is None or not (is_product(plan.steps[before]) and is_linear(plan.steps[before])):
        return None
    product = plan.steps[before]
    vectors = channel_vectors(plan, step, plan.shapes[product.outputs[0]])
    if vectors is None:
        return None
    weight, bias = _weight_bias(plan, product, *vectors)
    steps = absorbed(plan, index)
    names = f"d:{step.outputs[0]}.weight", f"d:{step.outputs[0]}.bias"
    attributes = {**product.attributes, **step.attributes}
    steps[before] = replace(steps[before], inputs=(product.inputs[0], *names), attributes=attributes)
    return rebuilt(plan, steps, dict(zip(names, (weight, bias), strict=True)))


def _weight_bias(plan: Plan, product: Step, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The product's weights after ``scale`` and ``shift`` [out], in float64."""
    weight = plan.weights[str(product.inputs[1])].double()
    bias = scale.new_zeros(()) if product.inputs[2] is None else plan.weights[product.inputs[2]].double()
    shape = [1] * weight.ndim
    shape[OUTPUT_AXIS[product.op]] = -1
    groups = product.attributes.get("groups", 1)
    if product.op == "conv_transpose2d" and groups > 1:  # [in, out / groups, ...]: each group's inputs in turn
        factor = scale.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0)[:, :, None, None]
    else:
        factor = scale.reshape(shape)
    return weight * factor, bias * scale + shift
