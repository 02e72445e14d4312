"""Running a plan in ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastvae.plan import Plan, plan_cost
from fastvae.runtime.batching import rows_that_fit
from fastvae.runtime.executor import Draw
from fastvae.runtime.latents import prior


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why ONNX Runtime cannot run a model on ``device`` in ``dtype``, or None if it can."""
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed; pip install 'fastvae-engine[cpu]'"
    if device.type != "cpu":
        return f"it runs on the CPU here, not on {device}"
    if dtype != torch.float32:
        return "it computes in float32, precision='ieee'"
    return None


class OnnxExecutor:
    """A plan as a session of ONNX Runtime; safe to call from several threads at once.

    ``rows_that_fit`` is how many rows of it make a batch that stays in the caches.

    Args:
        plan: in float32 on the CPU.
        threads: of one call.
        arena: whether the session keeps the memory of a call for the next one.
        batch_invariant: whether a row's bits must not depend on its place in the batch.
    """

    def __init__(self, plan: Plan, *, threads: int, arena: bool, batch_invariant: bool) -> None:
        import onnxruntime  # imported where it is used: it takes a tenth of a second

        from fastvae.onnx import output_names, to_onnx

        self.plan = replace(plan, weights={})  # the session has its own
        self.rows_that_fit = rows_that_fit(plan_cost(plan).peak_bytes)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = arena
        options.log_severity_level = 3  # errors; warnings are about the graph's making, not about its running
        model = to_onnx(plan, batch_invariant=batch_invariant).SerializeToString()
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = output_names(plan)
        self._noise_dim = next((s.attributes["dim"] for s in plan.steps if s.op == "sample_normal"), None)

    def __call__(
        self, inputs: Mapping[str, Tensor], draw: Draw | None = None, out: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """The plan's outputs for ``inputs``, each (rows, *shape of a row), written into ``out`` where given.

        ``out`` are contiguous float32 tensors.
        """
        if self._noise_dim is not None:
            if draw is None:
                raise AssertionError("a plan that draws noise needs a Draw")
            z = prior(draw.rows, self._noise_dim, seed=draw.seed, start=draw.start)
            inputs = {**inputs, "noise": z}
        given = [inputs[name].contiguous() for name in self._inputs]
        rows = max(map(len, given))
        if out is None:
            out = [torch.empty(rows, *self.plan.shapes[name]) for name in self.plan.outputs]
        if rows:
            self._run(given, out)
        return tuple(out)

    @property
    def takes_one(self) -> bool:
        """Whether the session has a single input: x, z or the noise."""
        return len(self._inputs) == 1

    def run_numpy(self, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The outputs of a session with one input, from and to NumPy arrays, by the shortest way there is."""
        results: list[NDArray[np.float32]] = self._session.run(self._outputs, {self._inputs[0]: x})
        return results

    def _run(self, given: Sequence[Tensor], out: Sequence[Tensor]) -> None:
        """Read ``given`` and write ``out`` in place: nothing is copied on the way in or out."""
        binding = self._session.io_binding()
        for name, tensor in zip(self._inputs, given, strict=True):
            dtype = np.bool_ if tensor.dtype == torch.bool else np.float32
            binding.bind_input(name, "cpu", 0, dtype, tuple(tensor.shape), tensor.data_ptr())
        for name, tensor in zip(self._outputs, out, strict=True):
            binding.bind_output(name, "cpu", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        self._session.run_with_iobinding(binding)
