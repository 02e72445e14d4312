"""Plans as CUDA graphs: recorded once for a few numbers of rows, replayed for every batch afterwards.

Replaying costs the host one call however many steps a plan has. What a graph wants in return shapes this module: inputs
at fixed addresses, one replay at a time, and outputs read before the next. So the graphs of an engine form a set with
one lock, one stream and one memory pool; a call copies its rows in, replays and copies the result out under the lock.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastvae.plan import Plan
from fastvae.runtime.batching import blocks
from fastvae.runtime.executor import Draw, Executor
from fastvae.runtime.memory import is_out_of_memory

PREPARED = (1, 16, 256, 4096)
# Kernels on more rows than this run longer than it takes to launch them: nothing to gain from a graph.
MOST_ROWS = 4096
# A batch of at most this many rows is padded however little of the graph it fills: launching is what takes time.
PADDED_ROWS = 256
MOST_GRAPHS = 64

logger = logging.getLogger("fastvae")

Run = Callable[[], tuple[Tensor, ...]]

# Before a capture PyTorch synchronises the whole device and empties its cache, which no other capture survives.
_capturing = threading.Lock()


def release_unused() -> None:
    """Give the CUDA memory that PyTorch keeps for later back to the device; does nothing before CUDA is in use."""
    with _capturing:
        torch.cuda.empty_cache()


class GraphDevice(Protocol):
    """The little of a device that graphs need."""

    def ordered(self) -> AbstractContextManager[None]:
        """Work begun inside runs on the graphs' stream, after the caller's earlier work and before its later."""

    def capture(self, run: Run) -> tuple[Callable[[], object], tuple[Tensor, ...]]:
        """Record ``run`` without running it: how to replay it, and the tensors that every replay fills anew."""

    def forget(self) -> None:
        """No recorded graph is left: start a new memory pool for those to come, and give unused memory back."""


class CudaGraphs:
    """The real one: a stream and a memory pool of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def ordered(self) -> Iterator[None]:
        caller = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(caller)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            caller.wait_stream(self._stream)

    def capture(self, run: Run) -> tuple[Callable[[], object], tuple[Tensor, ...]]:
        graph = torch.cuda.CUDAGraph()
        # "thread_local": what other threads do meanwhile, allocating included, does not end the capture.
        mode = "thread_local"
        with _capturing, torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode=mode):
            outputs = run()
        return graph.replay, outputs

    def forget(self) -> None:
        # PyTorch does not take a pool back once its last graph is gone.
        self._pool = torch.cuda.graph_pool_handle()
        release_unused()


@dataclass
class Graph:
    """A recorded plan: its inputs' and outputs' memory, and how to replay it.

    Rows from ``used`` on of the inputs are zero.
    """

    inputs: Mapping[str, Tensor]
    outputs: tuple[Tensor, ...]
    replay: Callable[[], object]
    used: int = 0

    def fill(self, inputs: Mapping[str, Tensor], low: int, high: int) -> None:
        """Rows low to high of ``inputs`` in the first rows of its own, zeros in the rest."""
        for name, tensor in self.inputs.items():
            tensor[: high - low].copy_(inputs[name][low:high])
            tensor[high - low : self.used].zero_()
        self.used = high - low


class GraphSet:
    """All graphs of one engine, the least recently used of which make way for new ones."""

    def __init__(self, device: GraphDevice, *, most: int = MOST_GRAPHS) -> None:
        self.device = device
        self.lock = threading.Lock()
        self._graphs: OrderedDict[tuple[str, int], Graph | None] = OrderedDict()
        self._most = most

    def get(self, executor: Executor, inputs: Mapping[str, Tensor], rows: int) -> Graph | None:
        """The graph of a plan for ``rows`` rows of such ``inputs``; None if it cannot be recorded.

        The lock is held and the device's stream is current.
        """
        key = executor.plan.verb, rows
        if key not in self._graphs:
            self._graphs[key] = self._record(executor, inputs, rows)
            if len(self._graphs) > self._most:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _record(self, executor: Executor, inputs: Mapping[str, Tensor], rows: int) -> Graph | None:
        static = {name: tensor.new_zeros(rows, *tensor.shape[1:]) for name, tensor in inputs.items()}
        executor(static)  # compiles and loads whatever has not been yet, which a capture does not allow
        try:
            replay, outputs = self.device.capture(lambda: executor(static))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            logger.warning("%s, %d rows: runs without a CUDA graph: %s", executor.plan.verb, rows, error)
            return None
        return Graph(static, outputs, replay)

    def clear(self) -> None:
        """Forget all graphs, once none is at work, and give their memory back."""
        with self.lock:
            self._graphs.clear()
            self.device.forget()


class GraphExecutor:
    """An executor whose plan runs as a graph where that is possible and pays.

    Called as :class:`Executor` is, from any thread and stream, and with its results; see :meth:`pieces` for which
    graphs run. Plans that draw noise run without: a seed would be recorded for good. So do batches of more rows than
    ``MOST_ROWS``, and inputs of different numbers of rows, which are several draws for each row.

    Args:
        sizes: numbers of rows to record graphs for, each on its first use. Those beyond ``MOST_ROWS`` are left out.
    """

    def __init__(self, executor: Executor, graphs: GraphSet, sizes: Iterable[int] = PREPARED) -> None:
        self._executor = executor
        self._graphs = graphs
        self._sizes: tuple[int, ...] = ()
        self.prepare(*sizes)

    @property
    def plan(self) -> Plan:
        """What it runs."""
        return self._executor.plan

    @property
    def rows_that_fit(self) -> int:
        """How many rows make a batch that stays in the caches."""
        return self._executor.rows_that_fit

    @property
    def tile_rows(self) -> int:
        """Rows of a tile of batch-invariant mode."""
        return self._executor.tile_rows

    def prepare(self, *sizes: int) -> None:
        """Have graphs of these sizes as well."""
        with self._graphs.lock:
            self._sizes = tuple(sorted({*self._sizes, *(size for size in sizes if size <= MOST_ROWS)}))

    def pieces(self, rows: int) -> Iterator[tuple[int, int, int]]:
        """(low, high, rows of the graph) of the replays that ``rows`` rows take; nothing if they run without one.

        A batch is padded to the next larger graph if that has at most ``PADDED_ROWS`` rows or is at least half full.
        Otherwise it is cut to fill the next smaller one, only the last piece padded.
        """
        larger = [size for size in self._sizes if size >= rows]
        smaller = [size for size in self._sizes if size < rows]
        if rows == 0 or not larger:
            return
        padded = larger[0] <= max(PADDED_ROWS, 2 * rows)
        size = larger[0] if padded or not smaller else smaller[-1]
        for low, high in blocks(rows, size):
            yield low, high, size

    def __call__(
        self, inputs: Mapping[str, Tensor], draw: Draw | None = None, out: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """The plan's outputs for ``inputs``, each of shape (rows, *shape of a row), in ``out`` or in new memory."""
        counts = {len(tensor) for tensor in inputs.values()}
        pieces = list(self.pieces(counts.pop())) if draw is None and len(counts) == 1 else []
        results = self._replayed(inputs, pieces, out) if pieces else None
        return self._executor(inputs, draw, out) if results is None else results

    def _replayed(
        self, inputs: Mapping[str, Tensor], pieces: list[tuple[int, int, int]], out: Sequence[Tensor] | None
    ) -> tuple[Tensor, ...] | None:
        rows, size = pieces[-1][1:]
        with self._graphs.lock:
            with self._graphs.device.ordered():
                graph = self._graphs.get(self._executor, inputs, size)
            if graph is None:
                return None
            # Allocated on the caller's stream, which is where they will be used and freed.
            results = tuple(out or (output.new_empty(rows, *output.shape[1:]) for output in graph.outputs))
            with self._graphs.device.ordered():
                for low, high, _ in pieces:
                    graph.fill(inputs, low, high)
                    graph.replay()
                    for result, output in zip(results, graph.outputs, strict=True):
                        result[low:high].copy_(output[: high - low])
        return results
