"""Plans: a verb of a model as a flat list of kernel ops (``build``), rewritten by passes, costed (``cost``)."""

from fastvae.plan.build import VERBS, build_plan
from fastvae.plan.cost import Cost, plan_cost
from fastvae.plan.plan import Plan, Step

__all__ = ["VERBS", "Cost", "Plan", "Step", "build_plan", "plan_cost"]
