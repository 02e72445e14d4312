"""A GPU that is not one: it computes on the CPU, and is as treacherous about graphs and copies as the real thing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fastvae.api import VAE
from fastvae.runtime import Engine, Settings
from fastvae.runtime.graphs import Run
from fastvae.runtime.staging import Stages
from fastvae.spec import ModelSpec
from fastvae.walk import Walker
from tests.fastvae.support import random_model, vae


def _spoiled(output: Tensor) -> Tensor:
    """``output`` overwritten with what nobody computed."""
    return output.fill_(float("nan")) if output.is_floating_point() else output.fill_(77)


class FakeGraphs:
    """Graphs whose replay runs the recorded closure again, on the memory it was recorded with.

    As on a GPU: recording computes nothing; a replay overwrites the outputs of the last one, and the memory of every
    other graph; nothing may be recorded twice at once, nor work begin on the graphs' stream from two threads at once.
    """

    def __init__(self) -> None:
        self.captures = 0
        self.replays = 0
        self.forgotten = 0
        self.capturing = False
        self.fail: Callable[[], None] = lambda: None
        self._owner: int | None = None
        self._outputs: list[tuple[Tensor, ...]] = []

    @contextmanager
    def ordered(self) -> Iterator[None]:
        if self._owner is not None:
            raise RuntimeError("work of two threads on one stream")
        self._owner = threading.get_ident()
        try:
            yield
        finally:
            self._owner = None

    def _check_owner(self) -> None:
        if self._owner != threading.get_ident():
            raise RuntimeError("not on the graphs' stream")

    def capture(self, run: Run) -> tuple[Callable[[], object], tuple[Tensor, ...]]:
        self._check_owner()
        if self.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.capturing = True
        try:
            self.fail()
            outputs = tuple(_spoiled(torch.empty_like(output)) for output in run())
        finally:
            self.capturing = False
        self.captures += 1
        self._outputs.append(outputs)

        def replay() -> None:
            self._check_owner()
            self.replays += 1
            for other in self._outputs:
                for output in other:
                    _spoiled(output)
            for output, result in zip(outputs, run(), strict=True):
                output.copy_(result)

        return replay, outputs

    def forget(self) -> None:
        self._outputs.clear()
        self.forgotten += 1


class FakeLanes:
    """Copies that happen as late as they may.

    A download is made when its mark is waited for, and its target holds nonsense until then; an upload's source must be
    left alone until its mark is waited for.
    """

    def __init__(self, graphs: FakeGraphs) -> None:
        self.allocations = 0
        self.under_way = 0
        self.most_under_way = 0
        self._graphs = graphs

    def pinned(self, size: int) -> Tensor:
        if self._graphs.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        return self.memory(size)

    def memory(self, size: int) -> Tensor:
        self.allocations += 1
        return torch.full((size,), 0xFF, dtype=torch.uint8)

    def upload(self, target: Tensor, source: Tensor) -> Callable[[], None]:
        target.copy_(source)
        sent = source.clone()

        def done() -> None:
            if not torch.equal(sent.view(torch.uint8), source.view(torch.uint8)):
                raise RuntimeError("memory was overwritten while it was being copied from")

        return self._begun(done)

    def download(self, target: Tensor, source: Tensor) -> Callable[[], None]:
        _spoiled(target)

        def done() -> None:
            target.copy_(source)

        return self._begun(done)

    def _begun(self, mark: Callable[[], None]) -> Callable[[], None]:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        return mark

    def wait(self, mark: Callable[[], None]) -> None:
        self.under_way -= 1
        mark()


def on_fake(
    spec: ModelSpec, graphs: FakeGraphs, lanes: Callable[[], FakeLanes] | None = None, **settings: object
) -> VAE:
    """A random model whose plans run as ``graphs`` and whose rows travel by ``lanes``, where there are any."""
    how = Settings(**{"impl": "reference", **settings})  # type: ignore[arg-type]
    model = VAE(random_model(spec), how)
    model._engine = Engine(model._model, how, graphs=graphs)
    model._engine._resources.stages = Stages(lanes)
    model._walker = Walker(model._engine)
    return model


def plain_vae(spec: ModelSpec, **settings: object) -> VAE:
    """A random model that runs the reference: what graphs and carriers are put around."""
    return vae(spec, **{"impl": "reference", **settings})
