"""Where a plan's buffers lie and how long they live: from liveness to fixed places in one arena.

Reshapes, splits, narrowings and columns are views: they have no memory of their own and keep that of what they look at.
A buffer lives from the step that writes it (an input: from the start) to the last step that reads it or a view of
it (an output: to the end).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastvae.layers import Shape
from fastvae.plan.pixels import byte_outputs
from fastvae.plan.plan import Plan, Step

ALIGNMENT = 256
# Ops that may write their result over an input that nothing reads afterwards.
ELEMENTWISE = ("add", "affine", "logvar")


@dataclass(frozen=True)
class Lifetime:
    """The first and the last step during which a buffer is needed, both included."""

    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        """Whether there is a step during which both are needed."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class BufferPlan:
    """Where each buffer that is no view starts in an arena of ``total_bytes``; all ``offsets`` are aligned."""

    offsets: Mapping[str, int]
    total_bytes: int


def is_view(plan: Plan, step: Step) -> bool:
    """Whether the step's outputs look at its input's memory.

    All reshapes do but one: that of every other channel of an image, which no strides can describe.
    """
    if step.op != "reshape":
        return step.op in ("split", "narrow", "columns")
    maker = plan.maker(str(step.inputs[0]))
    before = None if maker is None else plan.steps[maker]
    interleaved = before is not None and before.op == "split" and before.attributes["layout"] == "interleaved"
    return not (interleaved and len(plan.shapes[str(step.inputs[0])]) > 1)


def bases(plan: Plan) -> dict[str, str]:
    """For each buffer the one whose memory it is in: itself, unless it is a view."""
    found = {name: name for name in plan.inputs}
    for step in plan.steps:
        found.update({name: found[str(step.inputs[0])] if is_view(plan, step) else name for name in step.outputs})
    return found


def row_bytes(plan: Plan, element_bytes: int) -> dict[str, int]:
    """Bytes of one row of each buffer, where numbers take ``element_bytes``.

    A row's score, of shape (), takes at least 4, for it is summed in float32 or better; an entry of a mask, of
    what a norm wrote in 8 bits, of pixels and of their marks takes 1.
    """
    base = bases(plan)
    marks = byte_outputs(plan)
    eight_bits = (step.outputs[0] for step in plan.steps if step.attributes.get("out_scale") is not None)
    bytewise = {"mask", *eight_bits, *marks}

    def size(name: str, shape: Shape) -> int:
        if not shape and name not in marks:
            return max(4, element_bytes)
        return math.prod(shape) * (1 if base[name] in bytewise else element_bytes)

    return {name: size(name, shape) for name, shape in plan.shapes.items()}


def lifetimes(plan: Plan) -> dict[str, Lifetime]:
    """When each buffer that is no view is needed."""
    base, last = bases(plan), dict.fromkeys(plan.inputs, 0)
    first = dict.fromkeys(plan.inputs, 0)
    for index, step in enumerate(plan.steps):
        for name in (*step.outputs, *step.reads):
            if name in base:
                first.setdefault(base[name], index)
                last[base[name]] = index
    last.update({base[name]: len(plan.steps) for name in plan.outputs})
    return {name: Lifetime(at, last[name]) for name, at in first.items()}


def assign_buffers(plan: Plan, rows: int, element_bytes: int = 4) -> BufferPlan:
    """A place for every buffer of ``plan`` at ``rows`` rows, no two that live at once overlapping.

    One after the other chooses the tightest gap that its lifetime leaves it, in the better of two orders: large ones
    first, or as they are written. An elementwise step whose input dies there works in place: its result has its input's
    offset.
    """
    sizes = {name: rows * size for name, size in row_bytes(plan, element_bytes).items()}
    lives = lifetimes(plan)
    owner = _in_place(plan, lives, sizes)
    shared: dict[str, Lifetime] = {}
    for name, life in lives.items():
        whole = shared.get(owner[name], life)
        shared[owner[name]] = Lifetime(min(whole.first, life.first), max(whole.last, life.last))
    by_size = sorted(shared, key=lambda name: -sizes[name])
    by_start = sorted(shared, key=lambda name: (shared[name].first, -sizes[name]))
    placed, total = min((_placed(order, shared, sizes) for order in (by_size, by_start)), key=lambda found: found[1])
    return BufferPlan({name: placed[owner[name]] for name in lives}, total)


def _placed(
    order: Sequence[str], lives: Mapping[str, Lifetime], sizes: Mapping[str, int]
) -> tuple[dict[str, int], int]:
    """An offset for each buffer, chosen in this order, and the end of them all."""
    placed: dict[str, int] = {}
    for name in order:
        others = [other for other in placed if lives[name].overlaps(lives[other])]
        taken = sorted((placed[other], _aligned(placed[other] + sizes[other])) for other in others)
        placed[name] = _tightest_gap(taken, sizes[name])
    return placed, max((_aligned(offset + sizes[name]) for name, offset in placed.items()), default=0)


def _in_place(plan: Plan, lives: Mapping[str, Lifetime], sizes: Mapping[str, int]) -> dict[str, str]:
    """For each buffer the first of those that follow each other in one place: itself, mostly."""
    owner, base = {name: name for name in lives}, bases(plan)
    for index, step in enumerate(plan.steps):
        if step.op not in ELEMENTWISE:
            continue
        x, y = base[str(step.inputs[0])], step.outputs[0]
        if x not in plan.inputs and lives[x].last == index and sizes[x] == sizes[y]:
            owner[y] = owner[x]
    return owner


def _tightest_gap(taken: list[tuple[int, int]], size: int) -> int:
    """The start of the smallest gap between ``taken`` ranges, sorted, that holds ``size``; else the end of all."""
    end, best = 0, None
    for low, high in taken:
        gap = low - end
        if gap >= size and (best is None or gap < best[0]):
            best = (gap, end)
        end = max(end, high)
    return end if best is None else best[1]


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
