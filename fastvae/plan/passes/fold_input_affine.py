"""Fold a scale and shift (standardisation, a batch norm after an activation) into the weights of the product after it.

W (scale * x + shift) + b is W' x + b' with W' = W * scale and b' = W shift + b, both computed in float64. That is exact
for a linear layer, and for a convolution without padding. With padding, and in a transposed convolution, outputs near
the border see fewer inputs, so that what shift adds to them is no constant: there it must be zero.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastvae.plan.passes._affine import channel_vectors, has_parameters
from fastvae.plan.passes._rewrite import is_linear, is_product, reader, rebuilt, rewrite
from fastvae.plan.plan import Plan, Step


def fold_input_affine(plan: Plan) -> Plan:
    """The plan with each affine step folded into the product that reads it, also through reshapes, where exact."""
    return rewrite(plan, _folded)


def _folded(plan: Plan, index: int) -> Plan | None:
    step = plan.steps[index]
    after = reader(plan, step.outputs[0]) if has_parameters(step) and is_linear(step) else None
    if after is None or not is_product(plan.steps[after]):
        return None
    product = plan.steps[after]
    vectors = channel_vectors(plan, step, plan.shapes[str(product.inputs[0])])
    if vectors is None or not _is_exact(product, vectors[1]):
        return None
    names = f"d:{product.outputs[0]}.weight", f"d:{product.outputs[0]}.bias"
    weight, bias = _weight_bias(plan, product, *vectors)
    derived = {names[0]: weight} if bias is None else dict(zip(names, (weight, bias), strict=True))
    inputs = (product.inputs[0], names[0], None if bias is None else names[1])
    steps = list(plan.steps)
    steps[after] = replace(product, inputs=inputs)
    y, x = step.outputs[0], step.inputs[0]
    steps = [replace(s, inputs=tuple(x if name == y else name for name in s.inputs)) for s in steps if s is not step]
    return rebuilt(plan, steps, derived)


def _is_exact(product: Step, shift: Tensor) -> bool:
    unpadded = product.op == "conv2d" and max(product.attributes.get("padding", (0, 0))) == 0
    return product.op == "linear" or unpadded or bool((shift == 0).all())


def _weight_bias(plan: Plan, product: Step, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor | None]:
    """The product's weights before which ``scale`` and ``shift`` [in] are applied, in float64."""
    weight = plan.weights[str(product.inputs[1])].double()
    bias = None if product.inputs[2] is None else plan.weights[product.inputs[2]].double()
    if product.op == "conv_transpose2d":  # [in, out / groups, ...]
        return weight * scale.reshape(-1, 1, 1, 1), bias
    groups = product.attributes.get("groups", 1)  # [out, in / groups, ...]: each output sees its group's inputs
    scales, shifts = (
        vector.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0).reshape(weight.shape[:2])
        for vector in (scale, shift)
    )
    kernel = [1] * (weight.ndim - 2)
    if bool((shift != 0).any()):
        added = torch.sum(weight * shifts.reshape(*shifts.shape, *kernel), dim=tuple(range(1, weight.ndim)))
        bias = added if bias is None else bias + added
    return weight * scales.reshape(*scales.shape, *kernel), bias
