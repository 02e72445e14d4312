"""Running a plan in ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastvae.layers import Shape
from fastvae.plan import NAN, Plan, output_dtypes, plan_cost
from fastvae.runtime.batching import TILE, rows_that_fit
from fastvae.runtime.direct_call import Alone, DirectCall, Run
from fastvae.runtime.executor import Draw
from fastvae.runtime.few_rows import few_rows
from fastvae.runtime.kept_call import KeptCall
from fastvae.runtime.last_steps import last_steps
from fastvae.runtime.latents import prior
from fastvae.runtime.lifetime import Lifetime
from fastvae.runtime.results import Results
from fastvae.runtime.side_by_side import Sharing, in_serial_thread
from fastvae_kernels.cpu import ProgramCall, Values

# Batches of small rows are as large as the caches hold, those of large rows, images, of just enough rows to share the
# work of a call, as long as that takes no more than BUFFER_BYTES: bytes and rows for a thread alone, with its core's
# second cache and no fewer bytes than the weights, which every batch reads again; and for several, which meet at every
# operator, or for tiles, which are run one by one in any case.
ALONE, SHARED = (2**20, 16), (4 * 2**20, 64)
# FLOPs of a row from which batches go side by side in any mode: a few convolutions.
MUCH_WORK = 4e6
NUMPY_TYPES = {torch.float32: np.float32, torch.uint8: np.uint8, torch.bool: np.bool_}


def why_not(device: torch.device, precision: str) -> str | None:
    """Why ONNX Runtime cannot run a model on ``device`` in ``precision``, or None if it can."""
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed; pip install 'fastvae-engine[cpu]'"
    if device.type != "cpu":
        return f"it runs on the CPU here, not on {device}"
    if precision != "ieee":
        return "it computes in float32, precision='ieee'"
    return None


class Sessions:
    """Sessions of one model that differ in their threads; made when first asked for, and kept.

    Args:
        model: its bytes, without ``weights``, which all of them read where they are.
        arena: whether they keep the memory of a call for the next one.
        spins: whether threads wait for the next call by spinning.
    """

    def __init__(self, model: bytes, weights: Mapping[str, NDArray[np.float32]], *, arena: bool, spins: bool) -> None:
        self._model, self._weights, self._arena, self._spins = model, weights, arena, spins
        self._made: dict[int, Any] = {}
        self._lock = threading.Lock()

    def of(self, threads: int) -> Any:
        """The session whose calls have so many threads."""
        if threads not in self._made:
            with self._lock:
                if threads not in self._made:
                    self._made[threads] = self._new(threads)
        return self._made[threads]

    def _new(self, threads: int) -> Any:
        import onnxruntime  # optional, and slow to import

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = self._arena
        options.enable_mem_pattern = False  # a pattern is kept for each number of rows ever seen
        if not self._spins:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3  # errors; warnings are about the graph's making, not about its running
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(weight) for weight in self._weights.values()]
        options.add_external_initializers([*self._weights], values)
        return onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])


class OnnxExecutor:
    """A plan as a session of ONNX Runtime; safe to call from several threads at once.

    ``rows_that_fit`` is how many rows of it make a batch that stays in the caches, ``tile_rows`` how many a tile of
    batch-invariant mode has. ``side_by_side`` says that several batches are done sooner with each on a thread of its
    own; in such threads a call has no others to share its work.

    Args:
        plan: in float32 on the CPU.
        threads: of one call.
        arena: whether the session keeps the memory of a call for the next one.
        batch_invariant: whether a row's bits must not depend on its place in the batch.
        any_size: whether it takes images of any size, see :meth:`resized`.
        compiled: whether a few rows, or the scores that end the plan, may be left to the compiled kernels, where those
            are faster.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        threads: int,
        arena: bool,
        batch_invariant: bool,
        any_size: bool = False,
        compiled: bool = False,
    ) -> None:
        from fastvae.onnx import output_names, to_onnx

        self._noise_dim = next((s.attributes["dim"] for s in plan.steps if s.op == "sample_normal"), None)
        self._alone = threads == 1 and not batch_invariant
        # Threads that wait for the next call by spinning are in the way of what comes between calls: noise, or
        # whoever writes a bulk job's rows. Other verbs keep them: a single row is done sooner.
        self._spins = self._noise_dim is None and not batch_invariant
        self._few = few_rows(plan) if compiled else None
        self._last = last_steps(plan, threads) if compiled and self._few is None else None
        # The session holds what it needs of the weights; of the plan's, their shapes are left.
        self._take(replace(plan, weights={name: weight.to("meta") for name, weight in plan.weights.items()}))
        weights: dict[str, NDArray[np.float32]] = {}  # given as they are: a model's bytes would be copied several times
        front = plan if self._last is None else self._last.front
        model = to_onnx(front, batch_invariant=batch_invariant, any_size=any_size, runtime=True, outside=weights)
        self._sessions = Sessions(model.SerializeToString(), weights, arena=arena, spins=self._spins)
        self._session = self._sessions.of(threads)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = output_names(front)
        self._of_few = None
        if self._few is not None:
            self._of_few = self._few.call(plan.shapes[self._inputs[0]], "any", self._few.most)

    def _take(self, plan: Plan) -> None:
        self.plan = plan
        cost = plan_cost(plan, workspace=False)
        peak_bytes = cost.peak_bytes
        self.tile_rows = min(TILE, rows_that_fit(peak_bytes))
        cache_bytes, enough = (max(ALONE[0], cost.weight_bytes), ALONE[1]) if self._alone else SHARED
        self.rows_that_fit = min(rows_that_fit(peak_bytes), max(enough, cache_bytes // peak_bytes))
        # Threads that spin share the batches of dense layers as well as if each had its own.
        self.side_by_side = self.tile_rows == TILE and (not self._spins or cost.flops >= MUCH_WORK)

    def resized(self, plan: Plan) -> OnnxExecutor:
        """The same session for ``plan``, which is this one's for images of another size."""
        other = copy(self)
        other._take(plan)
        return other

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
        given = [inputs[name].contiguous() for name in self._inputs]
        rows = max(map(len, given))
        if self._of_few is not None and 0 < rows <= self._of_few.most:
            found = map(torch.from_numpy, self._of_few(given[0].detach().numpy()) or ())
            return tuple(found) if out is None else tuple(to.copy_(part) for to, part in zip(out, found, strict=True))
        if out is None:
            out = _memory(self.plan, rows)
        if self._last is None:
            if rows:
                self._run(given, out)
        elif rows:
            between = _memory(self._last.front, rows)
            self._run(given, between)
            read = [*(inputs[name].contiguous() for name in self._last.inputs), *between]
            made, call = self._last.call([part.detach().numpy() for part in read])
            call()
            for to, part in zip(out, made, strict=True):
                to.copy_(torch.from_numpy(part))
        return tuple(out)

    def direct(
        self, shape: Shape, limit: int, values: Values, in_use: Lifetime, results: Results, sharing: Sharing
    ) -> DirectCall | None:
        """The short way from a single input, x, z or the noise; None where there are more.

        ``shape`` is that of the input's rows; see DirectCall for the others.
        """
        last = self._last
        if len(self._inputs if last is None else last.inputs) != 1:
            return None
        given, marked = (self._inputs[0], shape), NAN in self.plan.outputs
        front = self.plan if last is None else last.front
        names = {name: front.shapes[value] for name, value in zip(self._outputs, front.outputs, strict=True)}
        made, dtypes = _numpy_types(front), _numpy_types(self.plan)
        asked, shapes = list(names), [self.plan.shapes[name] for name in self.plan.outputs]

        def call(session: Any, alone: Alone | None) -> DirectCall:
            few: ProgramCall | KeptCall
            if self._few is not None:
                few = self._few.call(shape, values, limit)
            else:
                few = KeptCall(session, given, names, made, marked, last, values, limit)
            # The session's own object, where there is one, runs without looking at its arguments once more.
            run_front: Run = getattr(session, "_sess", session).run
            whole = run_front if last is None else last.after(run_front)
            return DirectCall(whole, given, asked, shapes, dtypes, marked, limit, values, in_use, results, alone, few)

        if not self.side_by_side:
            return call(self._session, None)
        return call(self._session, (sharing, lambda: call(self._sessions.of(1), None)))

    def _run(self, given: Sequence[Tensor], out: Sequence[Tensor]) -> None:
        """Read ``given`` and write ``out`` in place: nothing is copied on the way in or out."""
        session = self._sessions.of(1) if in_serial_thread() else self._session
        binding = session.io_binding()
        for name, tensor in zip(self._inputs, given, strict=True):
            binding.bind_input(name, "cpu", 0, NUMPY_TYPES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        for name, tensor in zip(self._outputs, out, strict=True):
            binding.bind_output(name, "cpu", 0, NUMPY_TYPES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        session.run_with_iobinding(binding)


def _memory(plan: Plan, rows: int) -> list[Tensor]:
    """Uninitialised tensors for so many rows of a plan's outputs."""
    dtypes = output_dtypes(plan, torch.float32)
    return [
        torch.empty((rows, *plan.shapes[name]), dtype=dtype) for name, dtype in zip(plan.outputs, dtypes, strict=True)
    ]


def _numpy_types(plan: Plan) -> list[np.dtype[Any]]:
    """The dtypes of a plan's outputs."""
    return [np.dtype(NUMPY_TYPES[dtype]) for dtype in output_dtypes(plan, torch.float32)]
