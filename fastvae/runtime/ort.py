"""Running a plan in ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastvae.layers import Shape
from fastvae.plan import Plan, plan_cost
from fastvae.runtime.batching import TILE, blocks, even_parts, rows_that_fit
from fastvae.runtime.executor import Draw
from fastvae.runtime.latents import prior
from fastvae.runtime.lifetime import Lifetime
from fastvae.runtime.memory import is_out_of_memory
from fastvae.runtime.results import Results
from fastvae.runtime.side_by_side import Sharing, in_serial_thread

# Batches of small rows are as large as the caches hold, those of large rows, images, of just enough rows to share the
# work of a call, as long as that takes no more than BUFFER_BYTES.
CACHE_BYTES = 4 * 2**20
ENOUGH_ROWS = 64
# Up to so many values one call of BLAS, in one thread, tells sooner than two of NumPy whether all are finite.
FEW_VALUES = 8192
# FLOPs of a row from which batches go side by side in any mode: a few convolutions.
MUCH_WORK = 4e6
FLOAT32, BITS = np.dtype(np.float32), np.dtype(np.uint32)
# 1.0 in the bits of a float32.
ONE = 0x3F800000

Values: TypeAlias = Literal["any", "finite", "unit interval"]


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
    """

    def __init__(self, plan: Plan, *, threads: int, arena: bool, batch_invariant: bool, any_size: bool = False) -> None:
        from fastvae.onnx import output_names, to_onnx

        self._noise_dim = next((s.attributes["dim"] for s in plan.steps if s.op == "sample_normal"), None)
        # Threads that wait for the next call by spinning are in the way of what comes between calls: noise, or
        # whoever writes a bulk job's rows. Other verbs keep them: a single row is done sooner.
        self._spins = self._noise_dim is None and not batch_invariant
        # The session holds what it needs of the weights; of the plan's, their shapes are left.
        self._take(replace(plan, weights={name: weight.to("meta") for name, weight in plan.weights.items()}))
        weights: dict[str, NDArray[np.float32]] = {}  # given as they are: a model's bytes would be copied several times
        model = to_onnx(plan, batch_invariant=batch_invariant, any_size=any_size, runtime=True, outside=weights)
        self._sessions = Sessions(model.SerializeToString(), weights, arena=arena, spins=self._spins)
        self._session = self._sessions.of(threads)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = output_names(plan)

    def _take(self, plan: Plan) -> None:
        self.plan = plan
        cost = plan_cost(plan, workspace=False)
        peak_bytes = cost.peak_bytes
        self.tile_rows = min(TILE, rows_that_fit(peak_bytes))
        self.rows_that_fit = min(rows_that_fit(peak_bytes), max(ENOUGH_ROWS, CACHE_BYTES // peak_bytes))
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

        ``out`` are contiguous float32 tensors.
        """
        if self._noise_dim is not None:
            if draw is None:
                raise AssertionError("a plan that draws noise needs a Draw")
            z = prior(draw.rows, self._noise_dim, seed=draw.seed, start=draw.start)
            inputs = {**inputs, "noise": torch.from_numpy(z)}
        given = [inputs[name].contiguous() for name in self._inputs]
        rows = max(map(len, given))
        if out is None:
            out = [torch.empty(rows, *self.plan.shapes[name]) for name in self.plan.outputs]
        if rows:
            self._run(given, out)
        return tuple(out)

    def direct(
        self, shape: Shape, limit: int, values: Values, in_use: Lifetime, results: Results, sharing: Sharing
    ) -> DirectCall | None:
        """The short way into a session with a single input: x, z or the noise; None where there are more.

        ``shape`` is that of the input's rows; see DirectCall for the others.
        """
        if len(self._inputs) != 1:
            return None
        outputs = {name: self.plan.shapes[value] for name, value in zip(self._outputs, self.plan.outputs, strict=True)}

        def call(session: Any, alone: Alone | None) -> DirectCall:
            return DirectCall(session, (self._inputs[0], shape), outputs, limit, values, in_use, results, alone)

        if not self.side_by_side:
            return call(self._session, None)
        return call(self._session, (sharing, lambda: call(self._sessions.of(1), None)))

    def _run(self, given: Sequence[Tensor], out: Sequence[Tensor]) -> None:
        """Read ``given`` and write ``out`` in place: nothing is copied on the way in or out."""
        session = self._sessions.of(1) if in_serial_thread() else self._session
        binding = session.io_binding()
        for name, tensor in zip(self._inputs, given, strict=True):
            dtype = np.bool_ if tensor.dtype == torch.bool else np.float32
            binding.bind_input(name, "cpu", 0, dtype, tuple(tensor.shape), tensor.data_ptr())
        for name, tensor in zip(self._outputs, out, strict=True):
            binding.bind_output(name, "cpu", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        session.run_with_iobinding(binding)


class DirectCall:
    """From a caller's rows to a verb's outputs with as little in between as can be.

    A small model's session streams its weights through the caches, and every line of Python after it is read from
    memory again. Hence no calls in it that can be spared.

    Args:
        given: name and shape of a row of the input.
        outputs: the same of each output.
        limit: rows of a batch.
        values: what those of the input have to be.
        in_use: entered where there are several batches; a single one is over before anybody misses it.
        results: where the memory of the outputs of several batches comes from.
        alone: how several batches go side by side, and what gives the same call in a session of one thread for them;
            None where they go one after the other.
    """

    __slots__ = (
        "_alone",
        "_in_use",
        "_limit",
        "_name",
        "_outputs",
        "_results",
        "_run",
        "_shape",
        "_shapes",
        "_values",
    )

    def __init__(
        self,
        session: Any,
        given: tuple[str, Shape],
        outputs: Mapping[str, Shape],
        limit: int,
        values: Values,
        in_use: Lifetime,
        results: Results,
        alone: Alone | None,
    ) -> None:
        # The session's own object, where there is one, runs without looking at its arguments once more.
        self._run = getattr(session, "_sess", session).run
        self._name, self._shape = given
        self._outputs, self._shapes = list(outputs), list(outputs.values())
        self._limit, self._values, self._in_use, self._results = limit, values, in_use, results
        self._alone = alone

    def __call__(self, x: Any) -> list[NDArray[np.float32]] | None:
        """The outputs for clean float32 rows in C order; None for anything else, which takes the long way.

        None also where memory is short: the long way does with less.
        """
        if type(x) is not np.ndarray or x.dtype is not FLOAT32 or x.shape[1:] != self._shape:
            return None
        flags, rows = x.flags, len(x)
        if not (rows and flags.c_contiguous and flags.aligned):
            return None
        if rows > self._limit:
            return self.in_batches(rows, lambda low, high: x[low:high])
        if not self._clean(x):
            return None
        try:
            results: list[NDArray[np.float32]] = self._run(self._outputs, {self._name: x}, None)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        return results

    def _clean(self, x: NDArray[np.float32]) -> bool:
        """Whether the values are what they have to be.

        Read as integers, floats from 0 to 1 are those up to ONE; negative ones (-0.0 too), larger ones, infinities and
        NaN are all beyond.
        """
        if self._values == "unit interval":
            return bool(np.maximum.reduce(x.view(BITS), None) <= ONE)
        if self._values == "finite":
            # A sum of squares is finite only if every value is; large ones may overflow it and still be finite.
            if x.size <= FEW_VALUES and np.vdot(x, x) < math.inf:
                return True
            return bool(np.minimum.reduce(x, None) > -math.inf and np.maximum.reduce(x, None) < math.inf)
        return True

    def in_batches(self, rows: int, batch: Callable[[int, int], Any]) -> list[NDArray[np.float32]] | None:
        """The outputs for many rows, of which ``batch`` gives low to high, as :meth:`__call__` takes them.

        Each batch is looked at just before it is run, while the caches hold it.
        """
        if rows <= self._limit:
            return self(batch(0, rows))
        with self._in_use:
            try:
                results = [self._results.empty((rows, *shape)) for shape in self._shapes]
            except (MemoryError, ValueError):  # NumPy's words for more than any memory
                return None
            sharing, alone = self._alone or (None, None)
            shared = None if sharing is None else sharing.of(rows, self._limit)
            if shared is None or alone is None:
                done = all(self._fill(results, batch, *part) for part in even_parts(rows, self._limit))
            else:
                call, (threads, part) = alone(), shared
                done = not threads.run(lambda *part: call._fill(results, batch, *part), blocks(rows, part))
            return results if done else None

    def _fill(
        self, results: Sequence[NDArray[np.float32]], batch: Callable[[int, int], Any], low: int, high: int
    ) -> bool:
        """Rows low to high of the results; whether they could be computed."""
        outputs = self(batch(low, high))
        if outputs is None:
            return False
        for result, output in zip(results, outputs, strict=True):
            result[low:high] = output
        return True


Alone: TypeAlias = tuple[Sharing, Callable[[], DirectCall]]
