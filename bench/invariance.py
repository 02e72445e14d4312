"""How often a row's place in a batch of fixed size changes its bits, for linear layers as they are and padded.

Run as ``python -m bench.invariance``. The same row fills a batch; any row of the result that differs from the first is
a violation. Counts over a grid of shapes go to ``bench/results/invariance.jsonl``.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.environment import OUT, environment
from fastvae.plan.passes.align_linear import ALIGNMENT
from fastvae_kernels import sample_normal

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


def main() -> None:
    """Count, print and append one row."""
    counts = {
        f"{str(dtype).removeprefix('torch.')}, {'aligned' if aligned else 'as is'}": sum(
            place_matters(*shape, dtype, aligned=aligned) for shape in product(ROWS, OUTPUTS, INPUTS)
        )
        for dtype in (torch.float32, torch.float64)
        for aligned in (False, True)
    }
    row = environment() | {"study": "invariance", "shapes": len(ROWS) * len(OUTPUTS) * len(INPUTS), "differ": counts}
    path: Path = OUT / "invariance.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row["differ"], indent=2))


if __name__ == "__main__":
    main()
