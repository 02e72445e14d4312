"""What is measured: models x verbs x numbers of rows, each with its inputs made from a fixed seed."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

import fastvae
from bench.models import MODELS, model
from fastvae.layers import stack_shape
from fastvae.spec import Bernoulli
from fastvae_kernels import sample_normal, sample_uniform

# What a run measures unless told otherwise; ``interpolate`` is ``decode`` of more rows, so only on demand.
VERBS = ("generate", "encode", "decode", "reconstruct", "score")
ALL_VERBS = (*VERBS, "interpolate")
ROWS = (1, 16, 256, 4096, 65_536)
STEPS = 8


@dataclass(frozen=True)
class Case:
    """One verb of one model on so many rows; ``score`` is the ELBO at the posterior mean."""

    model: str
    verb: str
    rows: int

    def __str__(self) -> str:
        return f"{self.model}-{self.verb}-{self.rows}"


def cases(models: Iterable[str] = MODELS, verbs: Iterable[str] = VERBS, rows: Iterable[int] = ROWS) -> list[Case]:
    """All cases of these models, verbs and numbers of rows; a model's small ones first."""
    verbs, rows = tuple(verbs), sorted(set(rows))
    return [Case(name, verb, n) for name in models for n in rows for verb in verbs]


@functools.lru_cache(maxsize=2)
def inputs(name: str, rows: int) -> tuple[Tensor, Tensor]:
    """Data x (rows, *input_shape), in [0, 1] or samples of the model, and latents z (rows, *latent_shape)."""
    spec = model(name).spec
    z = sample_normal(rows, spec.latent_dim, seed=1).reshape(rows, *spec.latent_shape)
    if isinstance(spec.likelihood, Bernoulli):
        x = sample_uniform(rows, torch.Size(spec.input_shape).numel(), seed=2)
        return x.reshape(rows, *spec.input_shape), z
    return fastvae.VAE(model(name)).generate(rows, seed=2, output="sample", kind="torch"), z


def peak_bytes(case: Case) -> int:
    """What running the case layer by layer, as eager PyTorch does, holds at its peak: an estimate.

    The data, three of the largest activation (a layer's input, its output, and that output normalised or
    rectified) and three results (the one expected, the one to compare, their difference), in float32.
    """
    spec = model(case.model).spec
    rows = case.rows * (STEPS if case.verb == "interpolate" else 1)
    shapes = [spec.input_shape]
    for stack, shape in ((spec.encoder, spec.encoder_input_shape), (spec.decoder, spec.decoder_input_shape)):
        shapes += [stack_shape(stack[:end], shape) for end in range(1, len(stack) + 1)]
    data = math.prod(spec.input_shape)
    return 4 * rows * (data + 3 * max(math.prod(shape) for shape in shapes) + 3 * data)
