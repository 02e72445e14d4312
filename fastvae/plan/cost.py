"""What a plan costs per row: floating-point operations, bytes moved, and peak memory of its buffers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastvae.plan.plan import Plan, Step

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

    A multiply-add counts as two operations, any elementwise function as one per element.
    """
    sizes = {name: math.prod(shape) * element_bytes for name, shape in plan.shapes.items()}
    flops = moved = 0
    for step in plan.steps:
        if step.op in FREE:
            continue
        flops += _flops(plan, step)
        moved += sum(sizes.get(name, 0) for name in (*step.inputs, *step.outputs) if name is not None)
    weights = sum(weight.numel() * element_bytes for weight in plan.weights.values())
    return Cost(flops, moved, _peak(plan, sizes), weights)


def _flops(plan: Plan, step: Step) -> int:
    outputs = sum(math.prod(plan.shapes[name]) for name in step.outputs)
    if step.op in ("linear", "conv2d"):
        weight = plan.weights[str(step.inputs[1])]
        return 2 * outputs * math.prod(weight.shape[1:])
    if step.op == "conv_transpose2d":
        weight = plan.weights[str(step.inputs[1])]
        return 2 * math.prod(plan.shapes[str(step.inputs[0])]) * math.prod(weight.shape[1:])
    inputs = [math.prod(plan.shapes[name]) for name in step.inputs if name is not None and name in plan.shapes]
    return max(outputs, *inputs, 0)


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
