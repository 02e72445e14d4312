"""How often a row's place in a batch of fixed size changes its bits: linear layers in PyTorch, models in ONNX Runtime.

Run as ``python -m bench.invariance``. The same row fills a batch; any row of the result that differs from the first is
a violation. Both as they are and in the form batch-invariant mode gives them: layers padded, and sums over whole
cache lines. Counts over a grid of shapes go to ``bench/results/invariance.jsonl``.
"""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.environment import OUT, environment
from fastvae.layers import Linear
from fastvae.model import Model
from fastvae.plan import build_plan
from fastvae.plan.passes.align_linear import ALIGNMENT
from fastvae.runtime.ort import OnnxExecutor
from fastvae.spec import Bernoulli, GaussianHead, ModelSpec
from fastvae_kernels import sample_normal, sample_uniform

ROWS = (16, 32, 64, 128)
OUTPUTS = (1, 2, 3, 5, 8, 10, 16, 20, 31, 32, 64, 100, 256, 784)
INPUTS = (1, 3, 8, 10, 16, 33, 64, 100, 256, 512, 784)


def place_matters(rows: int, outputs: int, inputs: int, dtype: torch.dtype, *, aligned: bool) -> bool:
    """Whether equal rows come out of one linear layer with different bits."""
    weight = sample_normal(outputs, inputs, seed=0, dtype=dtype)
    x = sample_normal(1, inputs, seed=1, dtype=dtype).expand(rows, inputs).contiguous()
    if aligned:
        weight = F.pad(weight, (0, -inputs % ALIGNMENT, 0, -outputs % ALIGNMENT))
        x = F.pad(x, (0, -inputs % ALIGNMENT))
    result: Tensor = F.linear(x, weight)[:, :outputs]
    return bool((result != result[0]).any())


def place_matters_in_onnx(rows: int, outputs: int, inputs: int, *, batch_invariant: bool) -> bool:
    """Whether equal rows get different bits of ELBO from a model of one layer each way, in ONNX Runtime."""
    head = GaussianHead("separate", mean=(Linear("m", inputs, outputs),), scale=(Linear("v", inputs, outputs),))
    spec = ModelSpec((inputs,), (outputs,), (), head, (Linear("d", outputs, inputs),), Bernoulli())
    weights = {
        name: sample_normal(shape[0], shape[-1], seed=0, stream=stream).reshape(-1)[: math.prod(shape)].reshape(shape)
        for stream, (name, shape) in enumerate(spec.tensors().items())
    }
    plan = build_plan(Model(spec, weights), "elbo", target="onnx", batch_invariant=batch_invariant)
    session = OnnxExecutor(plan, threads=torch.get_num_threads(), arena=True, batch_invariant=batch_invariant)
    x = sample_uniform(1, inputs, seed=1).expand(rows, inputs).contiguous()
    return any(bool((result != result[0]).any()) for result in session({"x": x}))


def main() -> None:
    """Count, print and append one row."""
    shapes = list(product(ROWS, OUTPUTS, INPUTS))
    counts = {
        f"{str(dtype).removeprefix('torch.')}, {'aligned' if aligned else 'as is'}": sum(
            place_matters(*shape, dtype, aligned=aligned) for shape in shapes
        )
        for dtype in (torch.float32, torch.float64)
        for aligned in (False, True)
    }
    for name, batch_invariant in (("as is", False), ("batch-invariant", True)):
        counts[f"onnxruntime elbo, {name}"] = sum(
            place_matters_in_onnx(*shape, batch_invariant=batch_invariant) for shape in shapes
        )
    row = environment() | {"study": "invariance", "shapes": len(shapes), "differ": counts}
    path: Path = OUT / "invariance.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row["differ"], indent=2))


if __name__ == "__main__":
    main()
