"""A plan of small dense layers on a few rows, in one call of the compiled kernels.

A session takes some microseconds for itself and one or two a node, which of a small model's few rows is most of the
time. Batches of more rows are the session's: its products are the faster ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastvae.layers import Shape
from fastvae.plan import Plan
from fastvae.runtime.row_steps import WINDOWED, RowSteps, row_steps
from fastvae_kernels.cpu import ProgramCall, Values

# Rows of a call at most, fewer where they would be more multiplications than this: beyond, sessions are sooner done.
MOST_ROWS = 32
MOST_PRODUCTS = 2**19
# Of packed weights, which each verb's plan has for itself; within the second cache of a core.
MOST_BYTES = 2**20


@dataclass(frozen=True)
class FewRows:
    """A plan as the compiled kernels take it, and for how many rows that pays."""

    plan: RowSteps
    most: int

    def call(self, given: Shape, values: Values, limit: int) -> ProgramCall:
        """The plan as a function of at most ``limit`` rows of the shape ``given``, which are to be ``values``."""
        own = self.plan
        return ProgramCall(own.program, given, own.shapes, own.dtypes, values, min(self.most, limit))


def few_rows(plan: Plan) -> FewRows | None:
    """``plan``, in float32 on the CPU, for a few rows of its only input; None where that is better left to others."""
    products = sum(plan.weights[str(step.inputs[1])].numel() for step in plan.steps if step.op == "linear")
    if len(plan.inputs) != 1 or not 0 < products * 4 <= MOST_BYTES:
        return None
    if any(step.op in WINDOWED for step in plan.steps):  # whose products are many more than their weights
        return None
    found = row_steps(plan)
    return None if found is None else FewRows(found, min(MOST_ROWS, MOST_PRODUCTS // products))
