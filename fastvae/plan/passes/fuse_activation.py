"""Let an op apply the activation that follows it, so that the activation never makes a pass of its own.

A reshape between the two changes nothing, for an activation looks at one number at a time.
"""

from __future__ import annotations

from dataclasses import replace

from fastvae.plan.passes._rewrite import absorbed, is_linear, is_product, rebuilt, rewrite, source
from fastvae.plan.plan import Plan, Step


def fuse_activation(plan: Plan) -> Plan:
    """The plan with each pure activation moved into the step before it, where nothing else reads between them."""
    return rewrite(plan, _fused)


def _fused(plan: Plan, index: int) -> Plan | None:
    step = plan.steps[index]
    if step.op != "affine" or step.inputs[1:] != (None, None):
        return None
    before = source(plan, str(step.inputs[0]))
    if before is None or not _takes_activation(plan.steps[before]):
        return None
    steps = absorbed(plan, index)
    steps[before] = replace(steps[before], attributes={**steps[before].attributes, **step.attributes})
    return rebuilt(plan, steps)


def _takes_activation(step: Step) -> bool:
    return is_linear(step) and (step.op in ("affine", "group_norm") or is_product(step))
