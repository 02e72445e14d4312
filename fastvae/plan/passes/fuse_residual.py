"""Let a product add the residual itself, so that the sum never makes a pass of its own.

The op computes act(x W' + b) + residual and rounds once, which is what ``linear`` and then ``add`` do with one
rounding more. The fused step stands where the sum stood: only there is the other operand sure to exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from fastvae.plan.passes._rewrite import is_product, rebuilt
from fastvae.plan.plan import Plan, Step


def fuse_residual(plan: Plan) -> Plan:
    """The plan with each ``add`` merged into the linear step that makes one of its operands for it alone."""
    return _fused(plan, ("linear",))


def fuse_image_residual(plan: Plan) -> Plan:
    """The same for convolutions: only kernels have the sum in one, other executors fuse it themselves or not at all."""
    return _fused(plan, ("conv2d", "conv_transpose2d"))


def _fused(plan: Plan, products: tuple[str, ...]) -> Plan:
    uses, makers, steps = plan.uses(), dict[str, Step](), list[Step]()
    for step in plan.steps:
        product = _operand(step, products, makers, uses) if step.op == "add" else None
        if product is not None:
            (residual,) = (name for name in step.inputs if name != product.outputs[0])
            steps = [other for other in steps if other is not product]
            step = replace(product, keywords={"residual": str(residual)}, outputs=step.outputs)
        makers |= dict.fromkeys(step.outputs, step)
        steps.append(step)
    return rebuilt(plan, steps)


def _operand(add: Step, products: tuple[str, ...], makers: Mapping[str, Step], uses: Counter[str]) -> Step | None:
    """The step that makes an operand of ``add`` and can take it in; the later one where both can.

    The later one's input has lived nearly as long anyway, so that moving it holds less memory.
    """
    able = [makers[str(name)] for name in add.inputs if name in makers and _can_add(makers[str(name)], products, uses)]
    order = list(makers)
    return max(able, key=lambda step: order.index(step.outputs[0]), default=None)


def _can_add(step: Step, products: tuple[str, ...], uses: Counter[str]) -> bool:
    return step.op in products and is_product(step) and uses[step.outputs[0]] == 1
