"""python -m tests.fastvae.plan.measured_peak MODEL VERB ROWS: memory a plan needs, predicted and measured, in bytes.

Alone in its process, with every large tensor mapped by itself, so that the peak of its resident memory is that of
the tensors alive. Prints the two numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from fastvae.layers import Activation, Conv2d, ConvTranspose2d, Flatten, Linear, Reshape
from fastvae.plan import Plan, build_plan, plan_cost
from fastvae.runtime.executor import Draw, Executor
from fastvae.spec import Bernoulli, FixedGaussian, GaussianHead, ModelSpec
from tests.fastvae.support import random_model

RELU = Activation("relu")
MODELS = {
    "mlp": ModelSpec(
        input_shape=(784,),
        latent_shape=(32,),
        encoder=(Linear("e0", 784, 512), RELU, Linear("e1", 512, 256), Activation("gelu")),
        posterior=GaussianHead("separate", mean=(Linear("mean", 256, 32),), scale=(Linear("scale", 256, 32),)),
        decoder=(Linear("d0", 32, 256), RELU, Linear("d1", 256, 512), Activation("softplus"), Linear("d2", 512, 784)),
        likelihood=Bernoulli(),
    ),
    "conv": ModelSpec(
        input_shape=(3, 32, 32),
        latent_shape=(16,),
        encoder=(
            *(Conv2d("e0", 3, 32, (4, 4), (2, 2), (1, 1)), RELU),
            *(Conv2d("e1", 32, 32, (4, 4), (2, 2), (1, 1)), RELU, Flatten()),
        ),
        posterior=GaussianHead("chunked", joint=(Linear("q", 2048, 32),)),
        decoder=(
            *(Linear("d0", 16, 2048), RELU, Reshape((32, 8, 8))),
            *(ConvTranspose2d("d1", 32, 32, (4, 4), (2, 2), (1, 1)), RELU),
            ConvTranspose2d("d2", 32, 3, (4, 4), (2, 2), (1, 1)),
        ),
        likelihood=FixedGaussian(),
    ),
}


def resident(field: str) -> int:
    """Resident bytes of this process: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def run(plan: Plan, rows: int) -> None:
    """Run ``plan`` on zeros."""
    cpu = torch.device("cpu")
    inputs = {name: torch.zeros(rows, *plan.shapes[name]) for name in plan.inputs}
    with torch.no_grad():
        Executor(plan, impl="reference", device=cpu, dtype=torch.float32)(
            {name: x.fill_(0.5) for name, x in inputs.items()}, Draw(rows, 0, 0, cpu, torch.float32)
        )


def main(model: str, verb: str, rows: int) -> None:
    """Print the prediction and the measurement."""
    plan = build_plan(random_model(MODELS[model]), verb)
    run(plan, 2)
    before = resident("VmRSS")
    run(plan, rows)
    print(rows * plan_cost(plan).peak_bytes, resident("VmHWM") - before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
