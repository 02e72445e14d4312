"""What a plan does and what it should take: its steps as a table, with predicted times on a named device.

A step is predicted to take the longer of its arithmetic at the device's rate and its traffic at its bandwidth, plus a
launch. On a GPU, matrix products take what `fastvae_kernels.tiling.predicted_seconds` expects of the tile they run in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fastvae.layers import Shape
from fastvae.plan.cost import StepCost, plan_cost, step_costs, stored_bytes
from fastvae.plan.memory import assign_buffers, is_view
from fastvae.plan.outside import Outside, outside
from fastvae.plan.pixels import DECODERS
from fastvae.plan.plan import Plan, Step
from fastvae.plan.roofs import ELEMENT_BYTES, Roofs, roofs
from fastvae.spec import ModelSpec
from fastvae_kernels.parts import Part
from fastvae_kernels.tiling import best_tile, predicted_seconds

COLUMNS = ("op", "shapes", "flops", "bytes", "us", "share")


@dataclass(frozen=True)
class ExplainedStep:
    """One step at so many rows: ``bytes`` of buffers and weights read and written, predicted ``microseconds``.

    ``precision`` is what it computes in: that of the plan, but in one of ``fp8`` all but convolutions of 8 bits are of
    ``bf16``. ``shapes`` are those of a row, inputs -> outputs; ``share`` is that of the total time. Views take no time.
    """

    op: str
    precision: str
    shapes: str
    flops: int
    bytes: int
    microseconds: float
    share: float


@dataclass(frozen=True)
class Explanation:
    """A plan at ``rows`` rows on ``device``; ``str()`` makes a plain text table of it.

    ``peak_bytes`` of memory in use at once, weights aside: the caller's rows, buffers, and on a CPU what ops hold while
    they compute. ``arena_bytes`` is one block in which all buffers have fixed places, inputs and outputs among them.
    """

    verb: str
    device: str
    precision: str
    rows: int
    steps: tuple[ExplainedStep, ...]
    flops: int
    bytes: int
    microseconds: float
    peak_bytes: int
    arena_bytes: int
    weight_bytes: int

    def __str__(self) -> str:
        cells = [COLUMNS, *(_cells(step) for step in self.steps)]
        cells.append(("total", "", f"{self.flops:,}", f"{self.bytes:,}", f"{self.microseconds:,.1f}", ""))
        widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
        lines = [
            "  ".join(
                cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        title = f"{self.verb}, {self.rows:,} rows, {self.precision}, predicted for {self.device}"
        memory = (
            f"memory: {self.peak_bytes:,} bytes at the peak, {self.arena_bytes:,} as static buffers, "
            f"{self.weight_bytes:,} of weights"
        )
        return "\n".join([title, *(line.rstrip() for line in lines), memory])


def explain(plan: Plan, rows: int, device_name: str, precision: str) -> Explanation:
    """``plan`` at ``rows`` rows on ``cpu`` or a GPU by name, in ``ieee``, ``bf16``, ``fp16``, ``fp8`` or ``float64``.

    Raises:
        InputError: an unknown device.
        UnsupportedError: the device has no rate for the precision.
    """
    return _explained(plan.verb, [plan], None, rows, roofs(device_name, precision), precision)


def explain_verb(
    spec: ModelSpec, verb: str, build: Callable[[str], Plan], rows: int, device_name: str, precision: str
) -> Explanation:
    """``verb`` of a model by the plans that ``build`` makes: its own, or where its latents have a mixture the ones it
    runs, one after the other, and a line of what it does besides.

    Errors as :func:`explain` and :func:`fastvae.plan.build_plan`.
    """
    verbs, besides = outside(spec, verb, ELEMENT_BYTES[precision])
    plans = [build(name) for name in verbs]
    return _explained(verb, plans, besides, rows, roofs(device_name, precision), precision)


def _explained(
    verb: str, plans: list[Plan], besides: Outside | None, rows: int, limits: Roofs, precision: str
) -> Explanation:
    size = ELEMENT_BYTES[precision]
    steps = [step for plan in plans for step in _steps(plan, rows, limits, precision)]
    if besides is not None:
        steps.insert(0 if verb in DECODERS else len(steps), _besides(besides, rows, limits, precision))
    total = sum(step.microseconds for step in steps)
    costs = [plan_cost(plan, element_bytes=size, workspace=limits.part is None) for plan in plans]
    weights = {name: stored_bytes(weight, size) for plan in plans for name, weight in plan.weights.items()}
    return Explanation(
        verb=verb,
        device=limits.name,
        precision=precision,
        rows=rows,
        steps=tuple(replace(step, share=step.microseconds / total if total else 0.0) for step in steps),
        flops=sum(step.flops for step in steps),
        bytes=sum(step.bytes for step in steps),
        microseconds=total,
        peak_bytes=rows * max(cost.peak_bytes for cost in costs),
        arena_bytes=max(assign_buffers(plan, rows, size).total_bytes for plan in plans),
        weight_bytes=sum(weights.values()),
    )


def _steps(plan: Plan, rows: int, limits: Roofs, precision: str) -> list[ExplainedStep]:
    """The steps of a plan, their shares still to be found."""
    costs = step_costs(plan, element_bytes=ELEMENT_BYTES[precision])
    precisions = [_precision(step, precision) for step in plan.steps]
    return [
        ExplainedStep(
            op=step.op,
            precision=own,
            shapes=_shapes(plan, step),
            flops=rows * cost.flops,
            bytes=rows * cost.bytes + cost.weight_bytes,
            microseconds=1e6 * _seconds(plan, step, cost, rows, limits.at(own), own),
            share=0.0,
        )
        for step, cost, own in zip(plan.steps, costs, precisions, strict=True)
    ]


def _precision(step: Step, precision: str) -> str:
    """What a step of a plan computes in: in 8 bits where it has scales for its operands."""
    return "bf16" if precision == "fp8" and "scale" not in step.keywords else precision


def _besides(work: Outside, rows: int, limits: Roofs, precision: str) -> ExplainedStep:
    flops, moved = rows * work.flops, rows * work.bytes
    seconds = max(flops / limits.flops, moved / limits.bandwidth) + work.kernels * limits.launch
    return ExplainedStep(work.op, precision, work.shapes, flops, moved, 1e6 * seconds, 0.0)


def _seconds(plan: Plan, step: Step, cost: StepCost, rows: int, limits: Roofs, precision: str) -> float:
    """The predicted time of one step, launch included."""
    if is_view(plan, step):
        return 0.0
    moving = (rows * cost.bytes + cost.weight_bytes) / limits.bandwidth
    widths = _products(plan, step)
    if limits.part is None or not widths:
        return max(rows * cost.flops / limits.flops, moving) + limits.launch
    op = "linear_prior" if step.op == "linear_prior" else "linear"
    key = "bf16" if precision == "fp16" else precision
    computing = sum(_product_seconds(op, rows, outputs, inputs, key, limits.part) for outputs, inputs in widths)
    return max(computing, moving) + limits.launch


def _product_seconds(op: str, rows: int, outputs: int, inputs: int, precision: str, part: Part) -> float:
    tile = best_tile(op, outputs, inputs, precision, part)
    return predicted_seconds(tile, rows, outputs, inputs, precision, part, drawn=op == "linear_prior")


def _products(plan: Plan, step: Step) -> list[tuple[int, int]]:
    """(outputs, inputs) of each matrix product that a step makes; none for convolutions and elementwise steps."""

    def size(index: int) -> tuple[int, int]:
        outputs, inputs = plan.weights[str(step.inputs[index])].shape
        return outputs, inputs

    match step.op:
        case "linear" | "linear_score":
            return [size(1)]
        case "linear_prior":
            return [size(0)]
        case "gaussian_head" | "bottleneck":
            latent, inputs = size(1)
            return [(2 * latent, inputs), *([size(5)] if step.op == "bottleneck" else [])]
        case _:
            return []


def _shapes(plan: Plan, step: Step) -> str:
    """Rows read and written, such as "784 -> 512"; a score is "1"."""
    read = " + ".join(_text(plan.shapes[name]) for name in step.reads if name in plan.shapes)
    written = " + ".join(_text(plan.shapes[name]) for name in step.outputs)
    return f"{read} -> {written}".strip()


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "1"


def _cells(step: ExplainedStep) -> tuple[str, ...]:
    numbers = (f"{step.flops:,}", f"{step.bytes:,}", f"{step.microseconds:,.1f}", f"{step.share:.0%}")
    return (f"{step.op} ({step.precision})" if step.precision == "fp8" else step.op, step.shapes, *numbers)
