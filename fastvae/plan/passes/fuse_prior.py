"""Draw the prior's noise where the decoder's first layer multiplies it: ``linear_prior`` never writes z."""

from __future__ import annotations

from fastvae.plan.passes._rewrite import is_product, rebuilt, rewrite, source
from fastvae.plan.passes.prune import prune
from fastvae.plan.plan import Plan, Step


def fuse_prior(plan: Plan) -> Plan:
    """The plan with sample_normal and the linear layer that alone reads it, also through reshapes, as one step."""
    return rewrite(plan, _fused)


def _fused(plan: Plan, index: int) -> Plan | None:
    linear = plan.steps[index]
    before = source(plan, str(linear.inputs[0])) if linear.op == "linear" and is_product(linear) else None
    if before is None or plan.steps[before].op != "sample_normal":
        return None
    fused = Step("linear_prior", linear.inputs[1:], linear.outputs, linear.attributes)
    noise = plan.steps[before]
    return prune(rebuilt(plan, [fused if step is linear else step for step in plan.steps if step is not noise]))
