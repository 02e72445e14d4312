"""A plan of which ONNX Runtime runs all but some last steps, which have no form there: PyTorch runs those.

ONNX has no log-gamma function, so likelihoods of counts are such steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fastvae.plan import Plan, Step, plan_cost
from fastvae.runtime.batching import TILE, rows_that_fit
from fastvae.runtime.executor import Draw, Executor
from fastvae.runtime.ort import OnnxExecutor

# Steps that ONNX has no form for, and those that go with them.
WITHOUT_FORM = ("poisson_nll", "negative_binomial_nll", "less_total", "add_log_total")


def split(plan: Plan) -> tuple[Plan, Plan] | None:
    """What ONNX has a form for, and the steps after it; None where that is all of the plan.

    The first part's outputs are what the second reads of it, or the plan itself gives. Columns of the caller's rows are
    taken where they are read.
    """
    late: set[str] = set()
    for step in plan.steps:
        if step.op in WITHOUT_FORM or any(name in late for name in step.reads):
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


class SplitExecutor:
    """A plan in two parts, the first in ONNX Runtime; safe to call from several threads at once.

    ``rows_that_fit`` and ``tile_rows`` are as those of other executors.

    Args:
        plan: the whole.
        parts: :func:`split` of it.
        front: makes the executor of a first part.
    """

    def __init__(self, plan: Plan, parts: tuple[Plan, Plan], front: Callable[[Plan], OnnxExecutor]) -> None:
        first, last = parts
        self.plan = plan
        self._front_inputs, self._between = first.inputs, first.outputs
        self._front = front(first)
        self._back = Executor(last, impl="reference", device=torch.device("cpu"), dtype=torch.float32)
        self.rows_that_fit = rows_that_fit(plan_cost(plan).peak_bytes)
        self.tile_rows = min(TILE, self.rows_that_fit)

    def __call__(
        self, inputs: Mapping[str, Tensor], draw: Draw | None = None, out: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """The plan's outputs for ``inputs``, each (rows, *shape of a row), copied into ``out`` where given."""
        made = self._front({name: inputs[name] for name in self._front_inputs}, draw)
        return self._back({**inputs, **dict(zip(self._between, made, strict=True))}, None, out)
