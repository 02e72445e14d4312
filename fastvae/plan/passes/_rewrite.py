"""What passes share: applying a rule wherever it applies, finding a step through views, tidying up afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from fastvae.layers import Shape
from fastvae.plan.plan import Plan, Step

# The products, and the axis of each one's weight that runs over output channels (within a group).
OUTPUT_AXIS = {"linear": 0, "conv2d": 0, "conv_transpose2d": 1}


def rewrite(plan: Plan, rule: Callable[[Plan, int], Plan | None]) -> Plan:
    """``plan`` after ``rule`` has been applied until it applies nowhere.

    ``rule`` gets a plan and the index of a step, and gives the plan rewritten around it, or None.
    """
    index = 0
    while index < len(plan.steps):
        changed = rule(plan, index)
        plan, index = (plan, index + 1) if changed is None else (changed, 0)
    return plan


def is_product(step: Step) -> bool:
    """Whether it is act(weight x + bias) and nothing else."""
    return step.op in OUTPUT_AXIS and len(step.inputs) == 3 and not step.keywords


def is_linear(step: Step) -> bool:
    """Whether it applies no activation."""
    return str(step.attributes.get("activation", "identity")) == "identity"


def source(plan: Plan, name: str) -> int | None:
    """The step that makes ``name``, seen through reshapes; None if anything else reads what lies between."""
    uses = plan.uses()
    while uses[name] == 1 and (index := plan.maker(name)) is not None:
        step = plan.steps[index]
        if step.op != "reshape":
            return index
        name = str(step.inputs[0])
    return None


def reader(plan: Plan, name: str) -> int | None:
    """The one step that reads ``name``, seen through reshapes; None if there are more, or it is an output."""
    uses = plan.uses()
    while uses[name] == 1 and name not in plan.outputs:
        index, step = next((i, step) for i, step in enumerate(plan.steps) if name in step.reads)
        if step.op != "reshape":
            return index
        name = step.outputs[0]
    return None


def rebuilt(
    plan: Plan,
    steps: Iterable[Step],
    weights: Mapping[str, Tensor] | None = None,
    shapes: Mapping[str, Shape] | None = None,
) -> Plan:
    """``plan`` with these steps, more weights and shapes, and without the weights and shapes that no step names."""
    steps = tuple(steps)
    named = {name for step in steps for name in (*step.reads, *step.outputs)} | {*plan.inputs, *plan.outputs}
    kept = {name: weight for name, weight in {**plan.weights, **(weights or {})}.items() if name in named}
    rows = {name: shape for name, shape in {**plan.shapes, **(shapes or {})}.items() if name in named}
    return replace(plan, steps=steps, weights=kept, shapes=rows)


def absorbed(plan: Plan, index: int) -> list[Step]:
    """The steps without the elementwise one at ``index``, whose only input is now made under its output's name."""
    step = plan.steps[index]
    before = plan.maker(str(step.inputs[0]))
    if before is None:
        raise AssertionError("only what a step has made can be renamed")
    steps = list(plan.steps)
    steps[before] = replace(steps[before], outputs=step.outputs)
    del steps[index]
    return steps
