"""python -m bench.roofline: how fast each op of the reference workload could be, is predicted to be, and was measured.

The floor of an op is the longer of its arithmetic at the part's rate and of its bytes at its bandwidth; the sum
over a verb's ops counts what passes between them through memory, which a verb's own floor does not. Measured times
are the rows of bench/results/gpu.jsonl that tools/gpu_check.py wrote, with their share of that run's roofs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from bench.workloads import ROWS, VERBS, Step, steps
from fastvae_kernels.cost import Cost, op_cost
from fastvae_kernels.parts import PARTS, Part
from fastvae_kernels.tiling import best_tile, precision_key, predicted_seconds

RESULTS = Path(__file__).parent / "results" / "gpu.jsonl"
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "ieee": torch.float32}


def step_cost(step: Step) -> Cost:
    """FLOPs and bytes of one op."""
    operands = {
        "linear": ("x", "weight", "bias"),
        "linear_prior": ("weight", "bias"),
        "linear_score": ("x", "weight", "bias", "data"),
        "bottleneck": ("x", "mean_weight", "mean_bias", "logvar_weight", "logvar_bias", "weight", "bias"),
    }[step.op]
    return op_cost(step.op, [step.arguments[name] for name in operands], step.outputs)


def floor_seconds(cost: Cost, part: Part, precision: str) -> float:
    """The longer of the arithmetic and the traffic."""
    return max(cost.flops / part.flops[precision], cost.bytes / part.copy_bandwidth)


def products(step: Step) -> list[tuple[int, int]]:
    """(outputs, inputs) of each matrix product of an op."""
    weight = step.arguments["weight"]
    if step.op != "bottleneck":
        return [(weight.shape[0], weight.shape[1])]
    latent, inputs = step.arguments["mean_weight"].shape
    return [(2 * latent, inputs), (weight.shape[0], latent)]


def step_prediction(step: Step, part: Part, precision: str) -> float:
    """What the model that chooses tiles expects of an op's products, or its traffic, if that is longer."""
    rows = step.outputs[0].shape[0]
    dtype = PRECISIONS[precision]
    key = precision_key(dtype, precision)
    op = "linear" if step.op == "bottleneck" else step.op
    seconds = 0.0
    for outputs, inputs in products(step):
        tile = best_tile(op, outputs, inputs, key, part)
        seconds += predicted_seconds(tile, rows, outputs, inputs, key, part, drawn=op == "linear_prior")
    return max(seconds, step_cost(step).bytes / part.copy_bandwidth)


def measured_rows(path: Path, device: str | None) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The newest measurement of each (op, shape, precision), of one device if it is named."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [row for row in rows if row.get("section") in ("kernel", "verb") and "microseconds" in row]
    return {
        (row["op"], row["shape"], row["precision"]): row for row in kept if device is None or row["device"] == device
    }


def line(name: str, shape: str, cost: Cost | None, floor: float, predicted: float, row: dict[str, Any] | None) -> str:
    """One line of the table; times in µs."""
    work = f"{cost.flops / 1e9:9.2f}{cost.bytes / 1e6:9.1f}" if cost else " " * 18
    measured = (
        f"{row['microseconds']['fastvae']['p50']:10.1f}{row['share_of_roof']:8.0%}" if row else f"{'-':>10}{'-':>8}"
    )
    return f"{name:<17}{shape:<22}{work}{1e6 * floor:9.1f}{1e6 * predicted:11.1f}{measured}"


def verb_table(verb: str, part: Part, precision: str, rows: int, measured: dict[Any, Any]) -> list[str]:
    """A verb's ops, their sum, and the verb as a whole, whose activations need not reach memory."""
    lines, floor, predicted, work = [], 0.0, 0.0, 0
    for step in steps(verb, rows, PRECISIONS[precision], precision if precision == "tf32" else "ieee"):
        cost = step_cost(step)
        times = floor_seconds(cost, part, precision), step_prediction(step, part, precision)
        lines.append(line(step.op, step.shape, cost, *times, measured.get((step.op, step.shape, precision))))
        floor, predicted, work = floor + times[0], predicted + times[1], work + cost.flops
    whole = max(work / part.flops[precision], verb_bytes(verb, rows, precision) / part.copy_bandwidth)
    lines.append(line("sum of ops", "", None, floor, predicted, None))
    lines.append(
        line(f"{verb} itself", f"{rows} rows", None, whole, predicted, measured.get((verb, str(rows), precision)))
    )
    return lines


def verb_bytes(verb: str, rows: int, precision: str) -> int:
    """What a verb must move if nothing but its inputs and outputs touches memory; weights are negligible."""
    size = PRECISIONS[precision].itemsize
    widths = {"encode": 784 + 32, "generate": 784, "reconstruct": 2 * 784}
    return rows * 4 + rows * 784 * size if verb == "score" else rows * widths[verb] * size


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, default="sm_90", help="the architecture to predict for")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="measurements of tools/gpu_check.py")
    parser.add_argument("--device", help="only measurements of the device of this name")
    options = parser.parse_args()
    part = PARTS[options.part]
    measured = measured_rows(options.results, options.device)
    rates = f"{part.flops[options.precision] / 1e12:.0f} TFLOP/s, {part.copy_bandwidth / 1e12:.1f} TB/s"
    print(f"{part.name} ({part.target}), {options.precision}: {rates}")
    print(f"{'op':<17}{'shape':<22}{'GFLOP':>9}{'MB':>9}{'floor µs':>9}{'predicted':>11}{'measured':>10}{'of roof':>8}")
    for verb in VERBS:
        print("\n".join(verb_table(verb, part, options.precision, options.rows, measured)), end="\n\n")


if __name__ == "__main__":
    main()
