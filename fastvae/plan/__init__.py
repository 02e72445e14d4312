"""Plans: a verb of a model as a flat list of kernel ops (``build``), rewritten by passes, costed and explained."""

from fastvae.plan.build import SIZE_FREE_VERBS, VERBS, Target, build_plan
from fastvae.plan.cost import Cost, StepCost, plan_cost, step_costs
from fastvae.plan.explain import Explanation, explain
from fastvae.plan.memory import BufferPlan, assign_buffers
from fastvae.plan.plan import Plan, Step

__all__ = [
    "SIZE_FREE_VERBS",
    "VERBS",
    "BufferPlan",
    "Cost",
    "Explanation",
    "Plan",
    "Step",
    "StepCost",
    "Target",
    "assign_buffers",
    "build_plan",
    "explain",
    "plan_cost",
    "step_costs",
]
