"""Running a plan band by band, one image after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from fastvae.plan import Plan, Sweep, parameters
from fastvae.runtime.allocator import large_blocks_apart
from fastvae.runtime.executor import Draw
from fastvae.runtime.tiling.choose import Tiling
from fastvae.runtime.tiling.statistics import Statistics, norm_parameters
from fastvae.runtime.tiling.store import Store

# What runs the plan of a sweep on a band: from its inputs, and the shapes of its outputs, to those.
Run: TypeAlias = Callable[[Mapping[str, Tensor], Sequence[tuple[int, ...]]], Sequence[Tensor]]


class TiledExecutor:
    """A plan in tiles; calls from several threads are one after the other, so that one at a time takes its memory.

    Args:
        plan: for one size of images.
        tiling: how it is cut.
        bind: makes what runs a sweep's plan, given for the largest band; it is dropped after the sweep.
    """

    rows_that_fit = 1
    tile_rows = 1

    def __init__(self, plan: Plan, tiling: Tiling, bind: Callable[[Plan], Run]) -> None:
        self.plan, self.tiling = plan, tiling
        self._bind = bind
        self._lock = threading.Lock()

    def __call__(
        self, inputs: Mapping[str, Tensor], draw: Draw | None = None, out: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """The plan's outputs for ``inputs``, each (rows, *shape of a row), written into ``out`` where given."""
        rows = len(next(iter(inputs.values())))
        like = next(iter(inputs.values()))
        if out is None:
            out = [like.new_empty(rows, *self.plan.shapes[name]) for name in self.plan.outputs]
        with self._lock, large_blocks_apart():
            for row in range(rows):
                stores = {name: Store(inputs[name][row : row + 1]) for name in self.plan.inputs}
                for name, result in zip(self.plan.outputs, out, strict=True):
                    if name in stores:
                        result[row : row + 1] = inputs[name][row : row + 1]
                    else:
                        stores[name] = Store(result[row : row + 1], filled=False)
                _Image(self.plan, self.tiling, self._bind, stores).run()
        return tuple(out)


class _Image:
    """One image on its way: what is stored of it, and the statistics that were measured."""

    def __init__(self, plan: Plan, tiling: Tiling, bind: Callable[[Plan], Run], stores: dict[str, Store]) -> None:
        self._plan, self._tiling, self._bind, self._stores = plan, tiling, bind, stores
        self._statistics: dict[str, Statistics] = {}
        self._dtype = next(iter(stores.values())).whole().dtype

    def run(self) -> None:
        for sweep, rows in zip(self._tiling.sweeps, self._tiling.rows, strict=True):
            self._sweep(sweep, rows)

    def _sweep(self, sweep: Sweep, rows: int) -> None:
        bands = [(low, min(low + rows, sweep.height)) for low in range(0, sweep.height, rows)]
        frames = [sweep.frame(*band) for band in bands]
        run = self._bind(sweep.framed_plan(max(end - first for first, end in frames)))
        given = self._constants(sweep)
        for index, (band, frame) in enumerate(zip(bands, frames, strict=True)):
            self._band(sweep, run, given, band, frame)
            above = frames[index + 1] if index + 1 < len(frames) else (sweep.height, sweep.height)
            self._free(sweep, above)

    def _constants(self, sweep: Sweep) -> dict[str, Tensor]:
        """What all bands are given alike: parameters of norms, and images that are read as a whole."""
        given = {alias: self._stores[name].whole() for name, alias in sweep.wholes.items()}
        for output, step in sweep.norms.items():
            x = str(step.inputs[0])
            if x not in self._statistics:  # the caller's
                self._statistics[x] = Statistics.of(self._stores[x].whole())
            dtype = torch.promote_types(self._dtype, torch.float32)
            values = norm_parameters(self._plan, step, self._statistics[x], dtype)
            given.update(zip(parameters(output), values, strict=True))
        return given

    def _band(
        self, sweep: Sweep, run: Run, given: Mapping[str, Tensor], band: tuple[int, int], frame: tuple[int, int]
    ) -> None:
        """Compute the rows of a frame and keep those of the band, which the frame's edges do not reach."""
        inputs = dict(given)
        for name in sweep.framed:
            first, end = sweep.rows_of(name, frame, self._plan.shapes[name][1])
            inputs[name] = self._stores[name].rows(first, end)
        shapes = [sweep.plan.shapes[name] for name in sweep.plan.outputs]
        results = run(inputs, [(1, channels, frame[1] - frame[0], width) for channels, _, width in shapes])
        for name, result in zip(sweep.plan.outputs, results, strict=True):
            rows = result[:, :, band[0] - frame[0] : band[1] - frame[0]]
            if name in sweep.measured:
                found = Statistics.of(rows)
                before = self._statistics.get(name) if band[0] else None
                self._statistics[name] = found if before is None else before.merged(found)
            if name in sweep.kept:
                self._stores.setdefault(name, Store()).add(rows)

    def _free(self, sweep: Sweep, above: tuple[int, int]) -> None:
        """Forget what the frame ``above``, the next one, and all after it do not read."""
        for name in sweep.frees:
            if above[0] == sweep.height:
                del self._stores[name]
            elif name in sweep.framed:
                self._stores[name].release(sweep.rows_of(name, above, self._plan.shapes[name][1])[0])
