"""Make bytes of an image as its last convolution computes it: ``conv_image`` never writes the numbers."""

from __future__ import annotations

from fastvae.plan.passes._rewrite import is_product, rebuilt, rewrite
from fastvae.plan.plan import Plan, Step


def fuse_pixels(plan: Plan) -> Plan:
    """The plan with each convolution without groups whose result only becomes bytes as one step with that."""
    return rewrite(plan, _fused)


def _fused(plan: Plan, index: int) -> Plan | None:
    step = plan.steps[index]
    before = plan.maker(str(step.inputs[0])) if step.op == "to_bytes" else None
    if before is None or plan.uses()[str(step.inputs[0])] > 1:
        return None
    last = plan.steps[before]
    if last.op != "conv2d" or not is_product(last) or last.attributes["groups"] != 1:
        return None
    window = {name: value for name, value in last.attributes.items() if name != "groups"}
    fused = Step("conv_image", last.inputs, step.outputs, {**window, **step.attributes})
    return rebuilt(plan, [fused if other is last else other for other in plan.steps if other is not step])
