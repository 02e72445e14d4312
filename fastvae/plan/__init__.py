"""Plans: a verb of a model as a flat list of kernel ops (``verbs``), rewritten by passes, costed and explained."""

from fastvae.plan.build import Target, build_plan
from fastvae.plan.cost import Cost, StepCost, Workspace, peak_bytes, plan_cost, step_costs
from fastvae.plan.explain import Explanation, explain, explain_verb
from fastvae.plan.memory import BufferPlan, assign_buffers
from fastvae.plan.plan import Plan, Step
from fastvae.plan.scaled import PLAIN_VERBS, SCALED_VERBS, check_scaling
from fastvae.plan.sweeps import Sweep, parameters, sweeps
from fastvae.plan.verbs import SIZE_FREE_VERBS, VERBS
from fastvae.plan.workspace import workspace_bytes

__all__ = [
    "PLAIN_VERBS",
    "SCALED_VERBS",
    "SIZE_FREE_VERBS",
    "VERBS",
    "BufferPlan",
    "Cost",
    "Explanation",
    "Plan",
    "Step",
    "StepCost",
    "Sweep",
    "Target",
    "Workspace",
    "assign_buffers",
    "build_plan",
    "check_scaling",
    "explain",
    "explain_verb",
    "parameters",
    "peak_bytes",
    "plan_cost",
    "step_costs",
    "sweeps",
    "workspace_bytes",
]
