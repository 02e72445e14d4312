"""The scores that end a plan, in one call of the compiled kernels after the session that runs what is before them.

A likelihood and a divergence are some twenty nodes of a session, each a pass over all entries or a node's own time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastvae.plan import Plan, plan_cost
from fastvae.runtime.direct_call import Run
from fastvae.runtime.few_rows import MOST_BYTES
from fastvae.runtime.row_steps import RowSteps, row_steps
from fastvae.runtime.split import split
from fastvae_kernels.cpu import Values

# What scores a row, and what may go with that.
SCORES = ("bernoulli_nll", "gaussian_nll", "squared_error", "kl")
WITH_SCORES = (*SCORES, "logvar", "add")
# Rows of few entries are sooner scored by nodes that take many rows at once, which matters less the more work a row's
# layers are: two operations for each 4-byte weight, from where few_rows leaves layers to sessions.
LEAST_FLOPS = 2 * MOST_BYTES // 4
# One thread takes them, for the session's spin on the others' processors; many threads would wait for it. Measured were
# one and two.
MOST_THREADS = 4


@dataclass(frozen=True)
class LastSteps:
    """A plan in two: ``front`` for a session, and ``steps`` on the plan's ``inputs`` and on what that gives."""

    front: Plan
    inputs: Sequence[str]
    steps: RowSteps

    def call(
        self, given: Sequence[NDArray[np.float32]], values: Values = "any"
    ) -> tuple[list[NDArray[np.float32]], Callable[[], int]]:
        """Memory (rows, *shape) for each of the plan's outputs, and what computes them from ``given``.

        ``given`` are arrays in C order: ``inputs``, the first of which are to be ``values``, and the outputs of
        ``front``. Data of which there are several samples has fewer rows than those.
        """
        rows = max(map(len, given))
        made = [np.empty((rows, *shape), np.float32) for shape in self.steps.shapes]
        return made, self.steps.program.call(given, made, values)

    def after(self, session: Run) -> Run:
        """What runs the whole plan as ``session`` does its front."""

        def both(outputs: Sequence[str], feed: Mapping[str, Any], options: Any) -> list[NDArray[Any]]:
            given = [feed[name] for name in self.inputs]
            made, call = self.call([*given, *session(outputs, feed, options)])
            call()
            return made

        return both


def last_steps(plan: Plan, threads: int) -> LastSteps | None:
    """``plan``, in float32 on the CPU, cut before its scores; None where it has none, or is better left whole.

    ``threads`` are those of a call of the session.
    """
    parts = split(plan, SCORES)
    if parts is None or threads > MOST_THREADS or plan_cost(plan, workspace=False).flops < LEAST_FLOPS:
        return None
    front, last = parts
    steps = row_steps(replace(last, inputs=(*plan.inputs, *front.outputs), shapes=plan.shapes), WITH_SCORES)
    return None if steps is None or not front.steps else LastSteps(front, plan.inputs, steps)
