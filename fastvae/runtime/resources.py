"""What an engine holds in this process besides its model: plans, weights on the device, graphs, buffers, locks."""

from __future__ import annotations

import threading
from typing import TypeAlias

import torch

from fastvae.heads import Prior
from fastvae.plan import Plan
from fastvae.priors import Mixture
from fastvae.runtime.compiled import CompiledExecutor
from fastvae.runtime.compiled_call import CompiledCall
from fastvae.runtime.direct_call import DirectCall
from fastvae.runtime.executor import Executor
from fastvae.runtime.graphs import GraphDevice, GraphExecutor, GraphSet, release_unused
from fastvae.runtime.lifetime import Lifetime, watch_forks
from fastvae.runtime.numerics import Numerics
from fastvae.runtime.ort import OnnxExecutor
from fastvae.runtime.pixels import PixelExecutor
from fastvae.runtime.results import Results
from fastvae.runtime.split_executor import SplitExecutor
from fastvae.runtime.staging import stages
from fastvae.runtime.tiling import TiledExecutor
from fastvae.runtime.weights import WeightStore

AnyExecutor: TypeAlias = (
    Executor | GraphExecutor | CompiledExecutor | OnnxExecutor | SplitExecutor | TiledExecutor | PixelExecutor
)


class Resources:
    """The resources of one engine, shared by all threads that call it; ``lock`` guards ``executors`` and ``weights``.

    Args:
        graphs: where plans are recorded as graphs; None for nowhere.
        results: where the memory of large results comes from.
    """

    def __init__(self, device: torch.device, graphs: GraphDevice | None, results: Results) -> None:
        self.lifetime = Lifetime(survives_fork=device.type == "cpu")
        self.lock = threading.Lock()
        self.executors: dict[str, AnyExecutor] = {}
        self.whole: dict[str, AnyExecutor] = {}  # of whole images, where this engine's own are too large for that
        self.plans: dict[str, Plan] = {}  # what has to fit max_memory
        self.session_bytes: dict[str, int] = {}  # and what does
        self.direct: dict[str, CompiledCall | DirectCall | None] = {}  # short ways
        self.weights = WeightStore()
        self.eight_bit_layers: frozenset[str] | None = None  # what was measured to bear 8 bits, once it has been
        self.mixtures: dict[Prior, Mixture] = {}  # what latents are drawn from, where it is not N(0, I)
        self.graphs = None if graphs is None else GraphSet(graphs)
        self.stages = stages(device)
        self.numerics = Numerics()
        self.results = results
        self.limits: dict[str, int] = {}  # rows of an internal batch, by verb, where memory was short
        self._left_behind: tuple[dict[str, AnyExecutor], ...] = ()
        watch_forks(self)

    def release(self) -> None:
        """Give back what memory can be spared: graphs, idle buffers, and what PyTorch keeps for later."""
        self.stages.clear()
        self.results.clear()
        for executor in list(self.executors.values()):
            if isinstance(executor, CompiledExecutor):
                executor.release()
        if self.graphs is not None:
            self.graphs.clear()
        release_unused()

    def close(self) -> None:
        """Free everything, once callers inside have left; those that come later get ClosedError."""
        self.lifetime.close()
        if self.lifetime.forked:  # what is on the GPU is the parent's
            return
        with self.lock:
            self.direct.clear()
            self.executors.clear()
            self.whole.clear()
            self.plans.clear()
            self.weights = WeightStore()
        self.mixtures.clear()
        self.results.close()
        self.release()

    def after_fork(self) -> None:
        """In a forked child: the lock may be held by a thread that is not there, and sessions' threads are gone."""
        self.lock = threading.Lock()
        self._left_behind = self.executors, self.whole  # kept: ending a session waits for its threads
        self.executors, self.whole, self.direct = {}, {}, {}
        self.lifetime.after_fork()
