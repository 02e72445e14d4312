"""Choosing tiles: how to cut a plan into sweeps, and each sweep into bands, so that the peak of memory fits."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from fastvae.errors import InputError
from fastvae.plan import Plan, Sweep, sweeps
from fastvae.plan.bands import whole
from fastvae.plan.cost import step_costs
from fastvae.runtime.tiling.costs import Costs

# Rows beyond which a sweep is cut: few recompute little, many store less.
HALOS = (4, 12)
# Bands of fewer rows than this are mostly halo; and more bands of an image than that take long to choose.
FEWEST_ROWS, MOST_BANDS = 8, 64
# What a band may take where there is memory for more: beyond, larger bands are no faster.
BAND_BYTES = 192 * 2**20
# Of the least that a message names, over the least that was found: choices differ a little with what there is.
MARGIN = 1.01

logger = logging.getLogger("fastvae")


@dataclass(frozen=True)
class Tiling:
    """Sweeps, the rows of a band and the predicted peak of memory in bytes of each, and the operations of all."""

    sweeps: tuple[Sweep, ...]
    rows: tuple[int, ...]
    peaks: tuple[int, ...]
    flops: float

    @property
    def peak_bytes(self) -> int:
        """The predicted peak of memory."""
        return max(self.peaks)

    @property
    def bands(self) -> int:
        """How many bands are run."""
        return sum(-(-sweep.height // rows) for sweep, rows in zip(self.sweeps, self.rows, strict=True))


def fit(plan: Plan, costs: Costs, limit: int, *, rows: int | None, tiles: bool) -> Tiling | None:
    """How to run ``plan`` within ``limit`` bytes: a tiling, or None if it fits as it is. Says in the log what it takes.

    Args:
        rows: of an internal batch; None if that may be one image.
        tiles: whether the plan may be cut into tiles.

    Raises:
        InputError: there is no way to; the message says what the least is.
        UnsupportedError: the plan would have to be cut, and has no form in bands.
    """
    whole = costs.untiled(plan, rows or 1)
    height, width = max((plan.shapes[name] for name in plan.inputs), key=math.prod)[1:]
    what = f"{plan.verb} of {height}x{width}"
    if whole <= limit:
        logger.info(
            "%s: whole, predicted peak %s of %s bytes", what, f"{whole:,}", f"{limit:,}", extra={"peak_bytes": whole}
        )
        return None
    if not tiles:
        raise InputError(f"max_memory: {what} takes about {whole:,} bytes and does not run in tiles, got {limit:,}")
    tiling = choose(plan, costs, limit)
    if tiling.peak_bytes > limit:
        least = math.ceil(tiling.peak_bytes * MARGIN)
        raise InputError(f"max_memory: {what} takes at least {least:,} bytes, got {limit:,}")
    _say(what, f"{len(tiling.sweeps)} sweeps, {tiling.bands} bands", tiling.peak_bytes, limit)
    return tiling


def _say(what: str, how: str, peak: int, limit: int) -> None:
    """Log a prediction; the record has it as ``peak_bytes``."""
    text = f"{what}: {how}, predicted peak {peak:,} of {limit:,} bytes"
    logger.info(text, extra={"peak_bytes": peak})


def choose(plan: Plan, costs: Costs, budget: int) -> Tiling:
    """The tiling of ``plan`` whose peak is at most ``budget`` bytes with the least to compute.

    Where nothing fits, images that are cheap to compute again are no longer stored, one after the other. What is
    returned then may still not fit: it is the smallest that was found.

    Raises:
        UnsupportedError: the plan has no form in bands.
    """
    found = [tile(plan, costs, budget, most_halo=halo) for halo in HALOS]
    fitting = [tiling for tiling in found if tiling.peak_bytes <= budget]
    if fitting:
        return min(fitting, key=lambda tiling: tiling.flops)
    tried = [_recomputing(plan, costs, budget, halo) for halo in HALOS]
    fitting = [tiling for tiling in tried if tiling.peak_bytes <= budget]
    return min(fitting, key=lambda t: t.flops) if fitting else min(tried, key=lambda t: t.peak_bytes)


def tile(
    plan: Plan,
    costs: Costs,
    budget: int,
    *,
    most_halo: int = HALOS[0],
    virtual: Collection[str] = (),
    rows: int | None = None,
) -> Tiling:
    """A tiling with the largest bands that fit, or else the smallest; or with bands of ``rows`` rows."""
    cut = sweeps(plan, most_halo=most_halo, virtual=virtual)
    simulated = _Simulation(plan, costs)
    heights, peaks, work = [], [], 0.0
    for sweep in cut:
        height = simulated.fitting(sweep, budget) if rows is None else min(rows, sweep.height)
        peaks.append(simulated.run(sweep, height))
        heights.append(height)
        work += _flops(sweep) * simulated.share(sweep, height)
    return Tiling(cut, tuple(heights), tuple(peaks), work)


def _recomputing(plan: Plan, costs: Costs, budget: int, most_halo: int) -> Tiling:
    """A tiling in which not all images are stored: as many as have to be to fit, or to come down no further.

    What not to store is found with the smallest bands, so that it does not depend on the budget, nor does the least.
    """
    fixed = {name for step in plan.steps for name in whole(step)} | {*plan.inputs, *plan.outputs}
    virtual: frozenset[str] = frozenset()
    best = tile(plan, costs, 0, most_halo=most_halo)
    while best.peak_bytes > budget:
        index = best.peaks.index(best.peak_bytes)
        worst = best.sweeps[index]
        names = {*worst.framed, *worst.kept, *_stored_at(best, index)} - fixed - virtual
        trials = [(tile(plan, costs, 0, most_halo=most_halo, virtual={*virtual, name}), name) for name in sorted(names)]
        if not trials:
            break
        trial, name = min(trials, key=lambda found: (_worst_first(found[0]), found[0].flops))
        if _worst_first(trial) >= _worst_first(best):
            break
        best, virtual = trial, virtual | {name}
    larger = tile(plan, costs, budget, most_halo=most_halo, virtual=virtual)
    return larger if larger.peak_bytes <= budget else best


def _worst_first(tiling: Tiling) -> list[int]:
    """Its peaks, to compare: of several sweeps that are alike, one after the other can get better."""
    return sorted(tiling.peaks, reverse=True)


def _stored_at(tiling: Tiling, index: int) -> set[str]:
    """What is stored while a sweep is run."""
    stored: set[str] = set()
    for sweep in tiling.sweeps[:index]:
        stored = (stored | {*sweep.kept}) - {*sweep.frees}
    return stored


def _flops(sweep: Sweep) -> int:
    return sum(cost.flops for cost in step_costs(sweep.plan))


class _Simulation:
    """What is stored, sweep after sweep and band after band."""

    def __init__(self, plan: Plan, costs: Costs) -> None:
        self._costs = costs
        self._row = {
            name: shape[0] * shape[2] * costs.element_bytes for name, shape in plan.shapes.items() if len(shape) == 3
        }
        self._height = {name: plan.shapes[name][1] for name in self._row}
        self._stores = {name: deque([(0, self._height[name])]) for name in plan.inputs}
        self._stored = sum(self._row[name] * self._height[name] for name in plan.inputs)
        self._bands: dict[tuple[int, int], int] = {}

    def fitting(self, sweep: Sweep, budget: int) -> int:
        """The largest height of bands that fits ``budget`` and BAND_BYTES; else the smallest."""
        height, fewest = sweep.height, max(FEWEST_ROWS, sweep.unit, sweep.height // MOST_BANDS)
        room = budget - self._stored - self._costs.fixed
        while height > fewest:
            if self._band(sweep, height) <= min(BAND_BYTES, room) and self._tried(sweep, height) <= budget:
                break
            height = -(-math.ceil(height / 2) // sweep.unit) * sweep.unit
        return height

    def run(self, sweep: Sweep, rows: int) -> int:
        """Bytes at the peak of a sweep in bands of so many rows."""
        peak, high = 0, 0
        wholes = max((self._row[name] * self._height[name] for name in sweep.wholes), default=0)
        while high < sweep.height:
            low, high = high, min(high + rows, sweep.height)
            frame = sweep.frame(low, high)
            given = sum(self._copied(sweep, name, frame) for name in sweep.framed)
            peak = max(peak, self._stored + given + wholes + self._band(sweep, frame[1] - frame[0]))
            for name in sweep.kept:
                self._stores.setdefault(name, deque()).append((low, high))
                self._stored += self._row[name] * (high - low)
            above = sweep.frame(high, min(high + rows, sweep.height))
            for name in sweep.frees:
                if high == sweep.height:
                    self._release(name, self._height[name])
                elif name in sweep.framed:
                    self._release(name, sweep.rows_of(name, above, self._height[name])[0])
        return peak + self._costs.fixed

    def share(self, sweep: Sweep, rows: int) -> float:
        """Rows computed for each row of the image."""
        frames = [sweep.frame(low, min(low + rows, sweep.height)) for low in range(0, sweep.height, rows)]
        return sum(end - first for first, end in frames) / sweep.height

    def _tried(self, sweep: Sweep, rows: int) -> int:
        """What :meth:`run` would say."""
        stores, stored = self._stores, self._stored
        self._stores = {name: bands.copy() for name, bands in stores.items()}
        peak = self.run(sweep, rows)
        self._stores, self._stored = stores, stored
        return peak

    def _copied(self, sweep: Sweep, name: str, frame: tuple[int, int]) -> int:
        """Bytes of the rows of ``name`` that go with a frame, unless they are stored as they are."""
        first, end = sweep.rows_of(name, frame, self._height[name])
        return 0 if (first, end) in self._stores[name] else self._row[name] * (end - first)

    def _release(self, name: str, first: int) -> None:
        bands = self._stores[name]
        while bands and bands[0][1] <= first:
            low, high = bands.popleft()
            self._stored -= self._row[name] * (high - low)

    def _band(self, sweep: Sweep, rows: int) -> int:
        key = id(sweep), rows
        if key not in self._bands:
            self._bands[key] = self._costs.band(sweep, rows)
        return self._bands[key]
