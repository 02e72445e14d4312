"""Drop what no output needs: steps, buffers and weights."""

from __future__ import annotations

from dataclasses import replace

from fastvae.plan.plan import Plan, Step


def prune(plan: Plan) -> Plan:
    """The plan without the steps, shapes and weights that none of its outputs depends on."""
    needed = set(plan.outputs)
    kept: list[Step] = []
    for step in reversed(plan.steps):
        if needed.intersection(step.outputs):
            kept.append(step)
            needed.update(step.reads)
    written = {name for step in kept for name in step.outputs}
    return replace(
        plan,
        steps=tuple(reversed(kept)),
        inputs=tuple(name for name in plan.inputs if name in needed),
        weights={name: weight for name, weight in plan.weights.items() if name in needed},
        shapes={name: shape for name, shape in plan.shapes.items() if name in needed or name in written},
    )
