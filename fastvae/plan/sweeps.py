"""A plan as sweeps over an image: in each, some of its steps are run band after band, from stored images to new ones.

A group norm needs the statistics of a whole image, and attention all keys and values, before the first band of their
results; so a sweep ends before either. Between sweeps images are stored, except those named ``virtual``, which each
sweep that reads them makes again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from fastvae.plan.bands import NONE, Margin, margin, scales, whole
from fastvae.plan.plan import Plan, Step


@dataclass(frozen=True)
class Sweep:
    """One pass over an image.

    Attributes:
        plan: what is run on each band. Its inputs are bands of stored images, whole ones (under the names of
            ``wholes``), and the parameters of ``norms``; its outputs all have the same height.
        kept: outputs that are stored.
        measured: outputs whose statistics a group norm will ask for.
        framed: the stored images read in bands, and their rows for each row of the outputs.
        wholes: for stored images that are read as a whole, what the plan calls them.
        norms: the group norms of the plan as they were, by what they make.
        halo: rows to compute above and below a band of the outputs so that the band is right.
        unit: bands with their halo begin and end at multiples of so many rows.
        height: rows of the outputs.
        frees: stored images that nothing reads afterwards.
    """

    plan: Plan
    kept: tuple[str, ...]
    measured: tuple[str, ...]
    framed: Mapping[str, Fraction]
    wholes: Mapping[str, str]
    norms: Mapping[str, Step]
    halo: Margin
    unit: int
    height: int
    frees: tuple[str, ...] = ()

    def frame(self, low: int, high: int) -> tuple[int, int]:
        """The rows to compute for rows ``low`` to ``high`` of the outputs: (first, end)."""
        first = (max(0, low - self.halo.top) // self.unit) * self.unit
        end = -(-(high + self.halo.bottom) // self.unit) * self.unit
        return first, min(end, self.height)

    def rows_of(self, name: str, frame: tuple[int, int], height: int) -> tuple[int, int]:
        """The rows of the stored image ``name``, of ``height`` rows, that go with a frame."""
        ratio = self.framed[name]
        return int(frame[0] * ratio), height if frame[1] == self.height else int(frame[1] * ratio)

    def framed_plan(self, rows: int) -> Plan:
        """The plan for frames of so many rows."""
        share = Fraction(rows, self.height)

        def resized(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
            if len(shape) != 3 or name in self.wholes.values():
                return shape
            return (shape[0], math.ceil(shape[1] * share), shape[2])

        return replace(self.plan, shapes={name: resized(name, shape) for name, shape in self.plan.shapes.items()})


def parameters(output: str) -> tuple[str, str, str]:
    """What a sweep's plan calls the scale, shift and centre of the group norm that makes ``output``."""
    return f"{output}.scale", f"{output}.shift", f"{output}.centre"


def measured(plan: Plan) -> set[str]:
    """Buffers whose statistics a group norm needs."""
    return {str(step.inputs[0]) for step in plan.steps if step.op == "group_norm"}


def sweeps(plan: Plan, *, most_halo: int, virtual: Collection[str] = ()) -> tuple[Sweep, ...]:
    """``plan`` as sweeps, one after the other.

    Args:
        plan: for one size of images.
        most_halo: rows, at the top or at the bottom, beyond which a sweep is cut in two, if it can be.
        virtual: buffers not to store; never the plan's inputs or outputs, nor what has to be there as a whole.

    Raises:
        UnsupportedError: a step has no form in bands.
    """
    return _Cutter(plan, scales(plan), most_halo, frozenset(virtual)).run()


class _Cutter:
    def __init__(self, plan: Plan, scale: Mapping[str, Fraction], most_halo: int, virtual: frozenset[str]) -> None:
        self.plan, self.scale, self.most_halo, self.virtual = plan, scale, most_halo, virtual
        self.makers = {name: index for index, step in enumerate(plan.steps) for name in step.outputs}
        self.last = {name: index for index, step in enumerate(plan.steps) for name in step.reads}
        self.last.update(dict.fromkeys(plan.outputs, len(plan.steps)))
        self.measured = measured(plan)

    def run(self) -> tuple[Sweep, ...]:
        edges = [*self._cuts(), len(self.plan.steps)]
        stored = set(self.plan.inputs)
        found: list[Sweep] = []
        start = 0
        for end in edges:
            targets = [name for name in self._live(end) if start <= self.makers.get(name, -1) < end]
            kept = [name for name in targets if name not in self.virtual]
            wanted = [name for name in targets if name in kept or name in self.measured]
            for scale in dict.fromkeys(self.scale[name] for name in wanted):
                group = [name for name in wanted if self.scale[name] == scale]
                found.append(self._sweep(group, stored))
            stored.update(kept)
            start = end
        return tuple(self._freed(found))

    def _live(self, position: int) -> list[str]:
        """Buffers made before the step at ``position``, or given, and read from it on."""
        names = (*self.plan.inputs, *self.makers)
        return [name for name in names if self.makers.get(name, -1) < position <= self.last.get(name, -1)]

    def _cuts(self) -> Iterator[int]:
        """Positions of the steps before which a sweep ends."""
        start, index, margins = 0, 0, dict[str, Margin]()
        while index < len(self.plan.steps):
            step = self.plan.steps[index]
            needed = (*whole(step), *(step.inputs[:1] if step.op == "group_norm" else ()))
            if any(self.makers.get(str(name), -1) >= start for name in needed):
                cut: int | None = index
            else:
                reach = margin(self.plan, step, margins)
                margins.update(dict.fromkeys(step.outputs, reach))
                cut = self._narrowest(start, index) if max(reach) > self.most_halo and index > start else None
            if cut is None:
                index += 1
                continue
            yield cut
            start = index = cut
            margins = {}

    def _narrowest(self, start: int, end: int) -> int:
        """Where after ``start``, up to ``end``, the fewest numbers are live; the last such place."""

        def width(position: int) -> int:
            return sum(math.prod(self.plan.shapes[name]) for name in self._live(position))

        return min(range(start + 1, end + 1), key=lambda position: (width(position), -position))

    def _sweep(self, outputs: list[str], stored: Collection[str]) -> Sweep:
        steps = self._closure(outputs, stored)
        plan = self.plan
        made = {name for step in steps for name in step.outputs}
        alls = {name: f"{name}.whole" for step in steps for name in whole(step)}
        read = dict.fromkeys(
            name
            for step in steps
            for name in step.reads
            if name in plan.shapes and name not in made and name not in whole(step)
        )
        scale = self.scale[outputs[0]]
        rates = {name: self.scale[name] / scale for name in (*read, *made)}
        norms = {step.outputs[0]: step for step in steps if step.op == "group_norm"}
        shapes = {name: plan.shapes[name] for name in (*read, *made)}
        shapes |= {alls[name]: plan.shapes[name] for name in alls}
        for name, step in norms.items():
            shapes |= dict.fromkeys(parameters(name), plan.shapes[str(step.inputs[0])][:1])
        inputs = (*read, *alls.values(), *(name for output in norms for name in parameters(output)))
        written = tuple(_rewritten(step, alls) for step in steps)
        weights = {name: plan.weights[name] for step in written for name in step.reads if name in plan.weights}
        unit = math.lcm(*(rate.denominator for rate in rates.values()))
        return Sweep(
            Plan("band", inputs, tuple(outputs), written, weights, shapes),
            kept=tuple(name for name in outputs if name not in self.virtual),
            measured=tuple(name for name in outputs if name in self.measured),
            framed={name: rates[name] for name in read},
            wholes=alls,
            norms=norms,
            halo=self._halo(steps, outputs),
            unit=unit,
            height=plan.shapes[outputs[0]][1],
        )

    def _closure(self, outputs: list[str], stored: Collection[str]) -> list[Step]:
        """The steps that make ``outputs`` of what is stored."""
        needed, found = set(outputs), []
        for step in reversed(self.plan.steps[: max(self.makers[name] for name in outputs) + 1]):
            if needed.intersection(step.outputs):
                found.append(step)
                needed.update(name for name in step.reads if name not in stored)
        return found[::-1]

    def _halo(self, steps: list[Step], outputs: list[str]) -> Margin:
        margins: dict[str, Margin] = {}
        for step in steps:
            margins.update(dict.fromkeys(step.outputs, margin(self.plan, step, margins)))
        found = [margins.get(name, NONE) for name in outputs]
        return Margin(max(m.top for m in found), max(m.bottom for m in found))

    def _freed(self, found: list[Sweep]) -> Iterator[Sweep]:
        """The sweeps with what each is the last to read; what the caller gave stays."""
        last: dict[str, int] = {}
        for index, sweep in enumerate(found):
            last.update(dict.fromkeys((*sweep.framed, *sweep.wholes), index))
        for index, sweep in enumerate(found):
            reads = dict.fromkeys((*sweep.framed, *sweep.wholes))
            kept = (*self.plan.inputs, *self.plan.outputs)
            yield replace(sweep, frees=tuple(name for name in reads if last[name] == index and name not in kept))


def _rewritten(step: Step, wholes: Mapping[str, str]) -> Step:
    """The step as a sweep's plan has it: a group norm by its parameters, attention to images as a whole."""
    if step.op == "group_norm":
        applied = {key: value for key, value in step.attributes.items() if key not in ("groups", "eps")}
        return replace(step, op="normalise", inputs=(step.inputs[0], *parameters(step.outputs[0])), attributes=applied)
    if names := whole(step):
        return replace(step, inputs=(step.inputs[0], *(wholes[name] for name in names)))
    return step
