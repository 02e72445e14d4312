"""Plans: a verb of a model as a flat list of kernel ops (``verbs``), rewritten by passes, costed and explained."""

from fastvae.plan.build import Target, build_plan
from fastvae.plan.cost import Cost, StepCost, Workspace, peak_bytes, plan_cost, step_costs
from fastvae.plan.explain import Explanation, explain, explain_verb
from fastvae.plan.memory import BufferPlan, assign_buffers
from fastvae.plan.pixels import (
    DECODERS,
    MEAN_VERBS,
    NAN,
    PIXEL_VERBS,
    black_and_white,
    levels,
    output_dtypes,
    pixel_shape,
)
from fastvae.plan.plan import Plan, Step
from fastvae.plan.scaled import PLAIN_VERBS, SCALED_VERBS, check_scaling
from fastvae.plan.sweeps import Sweep, parameters, sweeps
from fastvae.plan.verbs import SIZE_FREE_VERBS, VERBS
from fastvae.plan.workspace import workspace_bytes

__all__ = [
    "DECODERS",
    "MEAN_VERBS",
    "NAN",
    "PIXEL_VERBS",
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
    "black_and_white",
    "build_plan",
    "check_scaling",
    "explain",
    "explain_verb",
    "levels",
    "output_dtypes",
    "parameters",
    "peak_bytes",
    "pixel_shape",
    "plan_cost",
    "step_costs",
    "sweeps",
    "workspace_bytes",
]
