"""Running a plan once on a row of noise, to see what its numbers are like before anybody's rows come."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import fastvae_kernels
from fastvae import noise
from fastvae.errors import WeightFormatError
from fastvae.plan import Plan
from fastvae.runtime.executor import Draw, Executor
from fastvae.spec import ModelSpec

SEED = 0
# The most latents that the image has in each direction.
SIDE = 8


def small(spec: ModelSpec) -> ModelSpec:
    """The spec for images of at most SIDE latents in each direction, which take no memory to speak of; itself where the
    model takes none."""
    if not spec.any_size:
        return spec
    try:
        return spec.decoding(*(min(side, SIDE) for side in spec.latent_shape[1:]))
    except WeightFormatError:  # no image has latents of that size
        return spec


def run_once(executor: Executor, device: torch.device, dtype: torch.dtype) -> None:
    """Run a plan on one row: standard normals for latents, uniform numbers for data, and nothing masked."""
    with torch.no_grad():
        executor(_noise(executor.plan, device, dtype), Draw(1, SEED, 0, device, dtype))


def _noise(plan: Plan, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    made = {}
    for stream, name in enumerate(plan.inputs):
        shape = (1, *plan.shapes[name])
        if name == "mask":
            made[name] = torch.ones(shape, dtype=torch.bool, device=device)
            continue
        draw = fastvae_kernels.sample_normal if name == "z" else fastvae_kernels.sample_uniform
        row = draw(1, math.prod(shape), seed=SEED, stream=noise.FILL + stream)  # on the CPU: the same bits everywhere
        made[name] = row.reshape(shape).to(device, dtype)
    return made
