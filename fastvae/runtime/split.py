"""Cutting a plan in two before certain last steps, for something else to run those."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from fastvae.plan import Plan, Step


def split(plan: Plan, ops: Collection[str]) -> tuple[Plan, Plan] | None:
    """What comes before the steps of ``ops``, and these with all that reads of them; None where there are none.

    The first part's outputs are what the second reads of it, or the plan itself gives. Columns of the caller's rows are
    taken where they are read.
    """
    late: set[str] = set()
    for step in plan.steps:
        if step.op in ops or any(name in late for name in step.reads):
            late.update(step.outputs)
    if not late:
        return None
    views = tuple(step for step in plan.steps if step.op == "columns" and step.inputs[0] in plan.inputs)
    first = _with_views(tuple(s for s in plan.steps if not late.intersection(s.outputs) and s not in views), views)
    last = _with_views(tuple(s for s in plan.steps if late.intersection(s.outputs)), views)
    made = {name for step in first if step not in views for name in step.outputs}
    wanted = {name for step in last for name in step.reads} | set(plan.outputs)
    between = tuple(name for name in plan.shapes if name in made & wanted)
    read = {name for step in first for name in step.reads}
    inputs = tuple(name for name in plan.inputs if name in read)
    given = tuple(name for name in plan.inputs if name in wanted)
    front = replace(plan, verb="front", inputs=inputs, outputs=between, steps=first)
    return _reduced(front), _reduced(replace(plan, inputs=(*between, *given), steps=last))


def _with_views(steps: tuple[Step, ...], views: tuple[Step, ...]) -> tuple[Step, ...]:
    """``steps`` after those of ``views`` that they read."""
    read = {name for step in steps for name in step.reads}
    return (*(view for view in views if read.intersection(view.outputs)), *steps)


def _reduced(plan: Plan) -> Plan:
    """``plan`` without the weights and shapes that none of its steps names."""
    named = {name for step in plan.steps for name in (*step.reads, *step.outputs)} | {*plan.inputs, *plan.outputs}
    weights = {name: weight for name, weight in plan.weights.items() if name in named}
    return replace(plan, weights=weights, shapes={name: plan.shapes[name] for name in plan.shapes if name in named})
