"""Let dense products round their float32 operands to TF32, which matrix units multiply several times as fast.

Not a pass that keeps outputs: the caller asks for it by precision. Convolutions and attention stay in float32.
"""

from __future__ import annotations

from dataclasses import replace

from fastvae.plan.plan import Plan

DENSE = ("linear", "linear_prior", "gaussian_head", "bottleneck", "linear_score")


def use_tf32(plan: Plan) -> Plan:
    """The plan with ``precision="tf32"`` in every op that multiplies dense matrices."""
    steps = (
        replace(step, attributes={**step.attributes, "precision": "tf32"}) if step.op in DENSE else step
        for step in plan.steps
    )
    return replace(plan, steps=tuple(steps))
