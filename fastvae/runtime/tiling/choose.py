"""Choosing tiles: how to cut a plan into sweeps, and each sweep into bands, so that the peak of memory fits."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fastvae.errors import InputError
from fastvae.plan import Plan, Sweep, sweeps
from fastvae.plan.bands import whole
from fastvae.plan.cost import step_costs
from fastvae.runtime.tiling.costs import Costs

# Rows beyond which a sweep is cut: few recompute little, many store less.
HALOS = (4, 12)
# Bands of fewer rows than this are mostly halo.
FEWEST_ROWS = 8
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
        logger.info("%s: whole, predicted peak %s of %s bytes", what, f"{whole:,}", f"{limit:,}")
        return None
    if not tiles:
        raise InputError(f"max_memory: {what} takes about {whole:,} bytes and does not run in tiles, got {limit:,}")
    tiling = choose(plan, costs, limit)
    if tiling.peak_bytes > limit:
        least = math.ceil(tiling.peak_bytes * MARGIN)
        raise InputError(f"max_memory: {what} takes at least {least:,} bytes, got {limit:,}")
    sizes = f"{len(tiling.sweeps)} sweeps, {tiling.bands} bands"
    logger.info("%s: %s, predicted peak %s of %s bytes", what, sizes, f"{tiling.peak_bytes:,}", f"{limit:,}")
    return tiling


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
    stores = {name: [(0, plan.shapes[name][1])] for name in plan.inputs}
    simulated = _Simulation(plan, costs, stores)
    heights, peaks, work = [], [], 0.0
    for sweep in cut:
        height = simulated.fitting(sweep, budget) if rows is None else min(rows, sweep.height)
        peaks.append(simulated.run(sweep, height))
        heights.append(height)
        work += _flops(sweep) * simulated.share(sweep, height)
    return Tiling(cut, tuple(heights), tuple(peaks), work)


def _recomputing(plan: Plan, costs: Costs, budget: int, most_halo: int) -> Tiling:
    """A tiling in which not all images are stored: as many as have to be to fit, or to come down no further."""
    fixed = {name for step in plan.steps for name in whole(step)} | {*plan.inputs, *plan.outputs}
    virtual: frozenset[str] = frozenset()
    best = tile(plan, costs, budget, most_halo=most_halo)
    while best.peak_bytes > budget:
        index = best.peaks.index(best.peak_bytes)
        worst = best.sweeps[index]
        names = {*worst.framed, *worst.kept, *_stored_at(best, index)} - fixed - virtual
        trials = [
            (tile(plan, costs, budget, most_halo=most_halo, virtual={*virtual, name}), name) for name in sorted(names)
        ]
        if not trials:
            break
        trial, name = min(trials, key=lambda found: (found[0].peak_bytes, found[0].flops))
        if trial.peak_bytes >= best.peak_bytes:
            break
        best, virtual = trial, virtual | {name}
    return best


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

    def __init__(self, plan: Plan, costs: Costs, stores: Mapping[str, list[tuple[int, int]]]) -> None:
        self._plan, self._costs = plan, costs
        self._stores = dict(stores)
        self._bands: dict[tuple[int, int], int] = {}

    def fitting(self, sweep: Sweep, budget: int) -> int:
        """The largest height of bands that fits ``budget`` and BAND_BYTES; else the smallest."""
        height = sweep.height
        fewest = max(FEWEST_ROWS, sweep.unit)
        while height > fewest:
            if self._band(sweep, height) <= BAND_BYTES and self._peak(sweep, height, dict(self._stores)) <= budget:
                break
            height = -(-math.ceil(height / 2) // sweep.unit) * sweep.unit
        return height

    def run(self, sweep: Sweep, rows: int) -> int:
        """Bytes at the peak of a sweep in bands of so many rows."""
        return self._peak(sweep, rows, self._stores)

    def share(self, sweep: Sweep, rows: int) -> float:
        """Rows computed for each row of the image."""
        frames = [sweep.frame(low, min(low + rows, sweep.height)) for low in range(0, sweep.height, rows)]
        return sum(end - first for first, end in frames) / sweep.height

    def _peak(self, sweep: Sweep, rows: int, stores: dict[str, list[tuple[int, int]]]) -> int:
        plan, peak = self._plan, 0
        wholes = max((self._size(name, plan.shapes[name][1]) for name in sweep.wholes), default=0)
        for low in range(0, sweep.height, rows):
            high = min(low + rows, sweep.height)
            frame = sweep.frame(low, high)
            given = 0
            for name in sweep.framed:
                taken = sweep.rows_of(name, frame, plan.shapes[name][1])
                given += 0 if taken in stores[name] else self._size(name, taken[1] - taken[0])
            peak = max(peak, self._stored(stores) + given + wholes + self._band(sweep, frame[1] - frame[0]))
            for name in sweep.kept:
                stores[name] = [*stores.get(name, []), (low, high)]
            if high < sweep.height:
                above = sweep.frame(high, min(high + rows, sweep.height))
                for name in sweep.frees:
                    if name in sweep.framed:
                        first = sweep.rows_of(name, above, plan.shapes[name][1])[0]
                        stores[name] = [band for band in stores[name] if band[1] > first]
        for name in sweep.frees:
            del stores[name]
        return peak + self._costs.fixed

    def _band(self, sweep: Sweep, rows: int) -> int:
        key = id(sweep), rows
        if key not in self._bands:
            self._bands[key] = self._costs.band(sweep, rows)
        return self._bands[key]

    def _stored(self, stores: Mapping[str, list[tuple[int, int]]]) -> int:
        return sum(self._size(name, high - low) for name, bands in stores.items() for low, high in bands)

    def _size(self, name: str, rows: int) -> int:
        channels, _, width = self._plan.shapes[name]
        return channels * width * rows * self._costs.element_bytes
