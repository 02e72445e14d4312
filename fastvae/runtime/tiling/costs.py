"""What tiles take in memory, for whatever runs them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fastvae.plan import Plan, Step, Sweep, Workspace, peak_bytes, workspace_bytes
from fastvae.plan.memory import row_bytes
from fastvae.runtime.batching import BUFFER_BYTES

# A session's weights while it is being made: as they are handed over, and as it will use them.
SESSION_COPIES = 2


@dataclass(frozen=True)
class Costs:
    """Bytes.

    Attributes:
        fixed: held all the time: weights.
        element_bytes: of a number.
        sessions: whether ONNX Runtime runs the steps, rather than the ops' references.
    """

    fixed: int
    element_bytes: int
    sessions: bool

    def band(self, sweep: Sweep, rows: int) -> int:
        """What a frame of so many rows takes: its results, and all in between; what it reads aside."""
        plan = sweep.framed_plan(rows)
        sizes = row_bytes(plan, self.element_bytes)
        given = sum(sizes[name] for name in plan.inputs)
        results = sum(sizes[name] for name in plan.outputs)
        computing = peak_bytes(plan, self.element_bytes, self._workspace()) - given
        storing = 2 * results
        return max(computing, storing) + self.session(plan)

    def session(self, plan: Plan) -> int:
        """What having the plan's weights ready takes."""
        if not self.sessions:
            return 0
        return SESSION_COPIES * sum(_in_session(plan, step) for step in plan.steps)

    def untiled(self, plan: Plan, rows: int) -> int:
        """The peak of running ``plan`` on so many images as a whole, or on as many small ones as make a batch."""
        held = max(rows * peak_bytes(plan, self.element_bytes, self._workspace()), BUFFER_BYTES)
        return self.fixed + self.session(plan) + held

    def _workspace(self) -> Workspace:
        return session_workspace if self.sessions else workspace_bytes


def weight_bytes(*tensors: Tensor) -> int:
    """Bytes of all of them, what shares memory counted once."""
    memories = [tensor.untyped_storage() for tensor in tensors]
    return sum({memory.data_ptr(): memory.nbytes() for memory in memories}.values())


def _in_session(plan: Plan, step: Step) -> int:
    """Bytes of a step's weights as a session has them, in float32."""
    from fastvae.onnx import images, winograd  # needs the package onnx

    numbers = sum(plan.weights[name].numel() for name in step.reads if name in plan.weights)
    if step.op == "conv2d" and winograd.pays(plan, step):
        numbers = numbers * 16 // 9
    if step.op == "conv_transpose2d" and images.has_phases(plan, step):
        numbers *= 2  # in phases, and before that apart
    return 4 * numbers


def session_workspace(plan: Plan, step: Step, element_bytes: int) -> int:
    """What ONNX Runtime holds besides operands and results, as measured on an AVX2 machine.

    A convolution works on blocked copies of what it reads and writes.
    """
    from fastvae.onnx import images, winograd

    read = [math.prod(plan.shapes[name]) for name in step.reads if name in plan.shapes]
    made = sum(math.prod(plan.shapes[name]) for name in step.outputs)
    match step.op:
        case "conv2d":
            numbers = 4 * read[0] + 5 * made if winograd.pays(plan, step) else read[0] + made
        case "conv_transpose2d":
            numbers = read[0] + 3 * made if images.has_phases(plan, step) else made
        case "attention":
            numbers = 2 * sum(read) + made
        case "normalise" | "group_norm":
            numbers = made
        case _:
            numbers = 0
    return element_bytes * numbers
