"""Running a plan in the compiled kernels: all its steps in one call, for any number of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fastvae.layers import Shape
from fastvae.plan import NAN, Plan, output_dtypes, plan_cost
from fastvae.runtime.batching import BUFFER_BYTES, MAX_ROWS
from fastvae.runtime.compiled_call import CompiledCall
from fastvae.runtime.executor import Draw
from fastvae.runtime.latents import prior
from fastvae.runtime.lifetime import Lifetime
from fastvae.runtime.results import Results
from fastvae.runtime.row_steps import RowSteps, row_steps
from fastvae.runtime.side_by_side import in_company, in_serial_thread
from fastvae_kernels.cpu import Values, has_wide_products

# Rows are shared between threads, and the work of a single one is not: rows of larger models are left to those who can.
# FLOPs, about a millisecond; bytes of weights, which each verb's plan packs for itself; and bytes of a thread's images.
MOST_FLOPS = 2**27
MOST_WEIGHT_BYTES = 16 * 2**20
MOST_SCRATCH_BYTES = 8 * 2**20
# Bytes of weights up to which a core's second cache has them, and FLOPs for each byte from which it does not matter.
CACHED_BYTES, LEAST_INTENSITY = 2**20, 2


class CompiledExecutor:
    """A plan as one call of the compiled kernels; safe to call from several threads at once.

    A row's bits know nothing of its batch. ``rows_that_fit`` is how many rows a call takes before it looks around.

    Args:
        plan: in float32 on the CPU.
        steps: the same, as :func:`compiled_steps` gives it.
        threads: of one call.
    """

    tile_rows = 1

    def __init__(self, plan: Plan, steps: RowSteps, threads: int) -> None:
        self._noise_dim = next((s.attributes["dim"] for s in plan.steps if s.op == "sample_normal"), None)
        self._inputs = plan.inputs if self._noise_dim is None else (*plan.inputs, "noise")
        self._steps, self._threads = steps, threads
        cost = plan_cost(plan, workspace=False)
        self.rows_that_fit = max(1, min(MAX_ROWS, BUFFER_BYTES // max(cost.peak_bytes, 1)))
        # The program holds what it needs of the weights; of the plan's, their shapes are left.
        self.plan = replace(plan, weights={name: weight.to("meta") for name, weight in plan.weights.items()})

    def __call__(
        self, inputs: Mapping[str, Tensor], draw: Draw | None = None, out: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """The plan's outputs for ``inputs``, each (rows, *shape of a row), written into ``out`` where given.

        ``out`` are contiguous tensors, float32 but for bytes and marks.
        """
        if self._noise_dim is not None:
            if draw is None:
                raise AssertionError("a plan that draws noise needs a Draw")
            z = prior(draw.rows, self._noise_dim, seed=draw.seed, start=draw.start)
            inputs = {**inputs, "noise": torch.from_numpy(z)}
        given = [inputs[name].detach().contiguous().numpy() for name in self._inputs]
        if out is None:
            dtypes = output_dtypes(self.plan, torch.float32)
            shapes = ((max(map(len, given)), *self.plan.shapes[name]) for name in self.plan.outputs)
            out = [torch.empty(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        threads = 1 if in_serial_thread() else self._threads
        self._steps.program.run(given, [tensor.numpy() for tensor in out], threads=threads, sleep=in_company())
        return tuple(out)

    def release(self) -> None:
        """Give back the memory that is kept for the next call."""
        self._steps.program.release()

    def direct(
        self, shape: Shape, limit: int, values: Values, in_use: Lifetime, results: Results
    ) -> CompiledCall | None:
        """The short way from a single input, x, z or the noise; None where there are more.

        ``shape`` is that of the input's rows; see CompiledCall for the others.
        """
        if len(self._inputs) != 1:
            return None
        marked = NAN in self.plan.outputs
        return CompiledCall(self._steps, shape, marked, limit, values, in_use, results, self._threads)


def compiled_steps(plan: Plan, threads: int) -> RowSteps | None:
    """``plan``, in float32 on the CPU, for a CompiledExecutor; None where that is better left to others.

    Several ``threads`` of a session read a few rows' weights sooner than one does, each from its own core's cache.
    """
    cost = plan_cost(plan, workspace=False)
    if not has_wide_products() or cost.flops > MOST_FLOPS or cost.weight_bytes > MOST_WEIGHT_BYTES:
        return None
    if threads > 1 and cost.weight_bytes > CACHED_BYTES and cost.flops < LEAST_INTENSITY * cost.weight_bytes:
        return None
    found = row_steps(plan)
    if found is None or not found.program.products or found.program.scratch_bytes > MOST_SCRATCH_BYTES:
        return None
    return found
