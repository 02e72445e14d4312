"""Let a linear layer add the residual itself, so that the sum never makes a pass of its own.

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
    uses, makers, steps = plan.uses(), dict[str, Step](), list[Step]()
    for step in plan.steps:
        linear = _linear_operand(step, makers, uses) if step.op == "add" else None
        if linear is not None:
            (residual,) = (name for name in step.inputs if name != linear.outputs[0])
            steps = [other for other in steps if other is not linear]
            step = replace(linear, keywords={"residual": str(residual)}, outputs=step.outputs)
        makers |= dict.fromkeys(step.outputs, step)
        steps.append(step)
    return rebuilt(plan, steps)


def _linear_operand(add: Step, makers: Mapping[str, Step], uses: Counter[str]) -> Step | None:
    """The step that makes an operand of ``add`` and can take it in; the later one where both can.

    The later one's input has lived nearly as long anyway, so that moving it holds less memory.
    """
    able = [makers[str(name)] for name in add.inputs if name in makers and _can_add(makers[str(name)], uses)]
    order = list(makers)
    return max(able, key=lambda step: order.index(step.outputs[0]), default=None)


def _can_add(step: Step, uses: Counter[str]) -> bool:
    return step.op == "linear" and is_product(step) and uses[step.outputs[0]] == 1
