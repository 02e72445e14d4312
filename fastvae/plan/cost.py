"""What a plan costs: floating-point operations and bytes moved, step by step, and the peak memory of its buffers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from fastvae.plan.memory import bases, is_view, lifetimes, row_bytes
from fastvae.plan.plan import Plan, Step
from fastvae.plan.workspace import workspace_bytes
from fastvae_kernels.cost import flops

# Ops that need all of their first operand before they can begin with it.
READ_TWICE = ("group_norm",)

# Bytes of a row that whatever runs a step holds besides operands and results, where numbers have so many bytes.
Workspace: TypeAlias = Callable[[Plan, Step, int], int]


@dataclass(frozen=True)
class StepCost:
    """Of one step: ``flops`` and ``bytes`` of buffers read and written, per row; ``weight_bytes`` read per call."""

    flops: int
    bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class Cost:
    """Per row: ``flops``; ``bytes`` read and written by all steps; ``peak_bytes`` of memory in use at once.

    ``weight_bytes`` is what the steps read of weights in one call, for any number of rows.
    """

    flops: int
    bytes: int
    peak_bytes: int
    weight_bytes: int


def step_costs(plan: Plan, *, element_bytes: int = 4) -> tuple[StepCost, ...]:
    """The cost of each step, with numbers of ``element_bytes``; views cost nothing.

    Operations are counted by `fastvae_kernels.cost.flops`.
    """
    sizes = row_bytes(plan, element_bytes)
    return tuple(_step_cost(plan, step, sizes, element_bytes) for step in plan.steps)


def plan_cost(plan: Plan, *, element_bytes: int = 4, workspace: bool = True) -> Cost:
    """The cost of ``plan``; with ``workspace``, its peak counts what the ops' references hold while they compute."""
    costs = step_costs(plan, element_bytes=element_bytes)
    return Cost(
        flops=sum(cost.flops for cost in costs),
        bytes=sum(cost.bytes for cost in costs),
        peak_bytes=peak_bytes(plan, element_bytes, workspace_bytes if workspace else None),
        weight_bytes=sum(cost.weight_bytes for cost in costs),
    )


def _step_cost(plan: Plan, step: Step, sizes: dict[str, int], element_bytes: int) -> StepCost:
    if is_view(plan, step):
        return StepCost(0, 0, 0)
    shapes: list[tuple[int, ...] | None] = []
    for name in step.inputs:
        if name is None:
            shapes.append(None)
        else:  # one row: every buffer has a leading axis of 1
            shapes.append((1, *plan.shapes[name]) if name in sizes else tuple(plan.weights[name].shape))
    read = [*step.reads, *(step.inputs[:1] if step.op in READ_TWICE else ())]
    weights = [plan.weights[name] for name in step.reads if name in plan.weights]
    written = [name for name in step.outputs if name in sizes]
    return StepCost(
        flops=flops(step.op, shapes, [(1, *plan.shapes[name]) for name in step.outputs]),
        bytes=sum(sizes[name] for name in (*read, *written) if name in sizes),
        weight_bytes=sum(stored_bytes(weight, element_bytes) for weight in weights),
    )


def stored_bytes(weight: Tensor, element_bytes: int) -> int:
    """Bytes of a weight where numbers take ``element_bytes``, but those of 8 bits, which take one."""
    return weight.numel() * (1 if weight.dtype == torch.float8_e4m3fn else element_bytes)


def peak_bytes(plan: Plan, element_bytes: int, workspace: Workspace | None) -> int:
    """Most bytes of a row in use during any step; inputs are the caller's, and there throughout."""
    sizes, base = row_bytes(plan, element_bytes), bases(plan)
    given = sum(sizes[name] for name in plan.inputs)
    lives = {name: life for name, life in lifetimes(plan).items() if name not in plan.inputs}
    peak = given
    for index, step in enumerate(plan.steps):
        live = sum(sizes[name] for name, life in lives.items() if life.first <= index <= life.last)
        if workspace is not None and any(base[name] == name for name in step.outputs):
            live += workspace(plan, step, element_bytes)
        peak = max(peak, given + live)
    return peak
