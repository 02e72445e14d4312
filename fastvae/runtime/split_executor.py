"""A plan of which ONNX Runtime runs all but some last steps, which have no form there: PyTorch runs those.

ONNX has no log-gamma function, so likelihoods of counts are such steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fastvae.plan import Plan, plan_cost
from fastvae.runtime.batching import TILE, rows_that_fit
from fastvae.runtime.compiled import CompiledExecutor
from fastvae.runtime.executor import Draw, Executor
from fastvae.runtime.ort import OnnxExecutor

# Steps that ONNX has no form for, and those that go with them.
WITHOUT_FORM = ("poisson_nll", "negative_binomial_nll", "less_total", "add_log_total")


class SplitExecutor:
    """A plan in two parts, the first in ONNX Runtime; safe to call from several threads at once.

    ``rows_that_fit`` and ``tile_rows`` are as those of other executors.

    Args:
        plan: the whole.
        parts: :func:`split` of it.
        front: makes the executor of a first part.
    """

    def __init__(
        self, plan: Plan, parts: tuple[Plan, Plan], front: Callable[[Plan], CompiledExecutor | OnnxExecutor]
    ) -> None:
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
