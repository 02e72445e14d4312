"""What a plan costs per row: floating-point operations, bytes moved, and peak memory of its buffers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastvae.plan.plan import Plan, Step
from fastvae_kernels.cost import flops

# Views: no arithmetic, no memory of their own (join, split and pad are counted as the copies they may be).
FREE = ("reshape", "narrow")


@dataclass(frozen=True)
class Cost:
    """Per row: ``flops``; ``bytes`` read and written by all steps; ``peak_bytes`` of buffers alive at once.

    ``weight_bytes`` is the size of the weights, once for any number of rows.
    """

    flops: int
    bytes: int
    peak_bytes: int
    weight_bytes: int


def plan_cost(plan: Plan, *, element_bytes: int = 4) -> Cost:
    """The cost of ``plan`` with buffers of ``element_bytes`` per element.

    Operations are counted by `fastvae_kernels.cost.flops`.
    """
    sizes = {name: math.prod(shape) * element_bytes for name, shape in plan.shapes.items()}
    work = moved = 0
    for step in plan.steps:
        if step.op in FREE:
            continue
        work += _flops(plan, step)
        moved += sum(sizes.get(name, 0) for name in (*step.inputs, *step.outputs) if name is not None)
    weights = sum(weight.numel() * element_bytes for weight in plan.weights.values())
    return Cost(work, moved, _peak(plan, sizes), weights)


def _flops(plan: Plan, step: Step) -> int:
    """Operations for one row: every buffer has a leading axis of 1."""
    inputs: list[tuple[int, ...] | None] = []
    for name in step.inputs:
        if name is None:
            inputs.append(None)
        else:
            inputs.append((1, *plan.shapes[name]) if name in plan.shapes else tuple(plan.weights[name].shape))
    return flops(step.op, inputs, [(1, *plan.shapes[name]) for name in step.outputs])


def _peak(plan: Plan, sizes: dict[str, int]) -> int:
    """Largest sum of live buffers over the steps; a buffer dies after its last read."""
    last = plan.last_reads()
    live = {name for name in plan.inputs if name in sizes}
    peak = sum(sizes[name] for name in live)
    for index, step in enumerate(plan.steps):
        live |= set(step.outputs)
        peak = max(peak, sum(sizes[name] for name in live))
        live -= {name for name, at in last.items() if at <= index}
    return peak
