"""What is measured: models x verbs x numbers of rows, each with its inputs made from a fixed seed."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

import fastvae
from fastvae.embedded import resolve
from fastvae.formats import native
from fastvae.layers import Activation, Linear
from fastvae.model import Model
from fastvae.spec import Bernoulli, GaussianHead, ModelSpec
from fastvae_kernels import sample_normal, sample_uniform

VERBS = ("generate", "encode", "decode", "reconstruct", "score", "interpolate")
ROWS = (1, 256, 2048)
STEPS = 8


@dataclass(frozen=True)
class Case:
    """One verb of one model on so many rows; ``score`` is the ELBO at the posterior mean."""

    model: str
    verb: str
    rows: int

    def __str__(self) -> str:
        return f"{self.model}-{self.verb}-{self.rows}"


def mlp() -> Model:
    """784-512-256-(2x32)-256-512-784 with ReLU and random weights: the dense reference model."""
    relu = Activation("relu")
    spec = ModelSpec(
        input_shape=(784,),
        latent_shape=(32,),
        encoder=(Linear("e0", 784, 512), relu, Linear("e1", 512, 256), relu),
        posterior=GaussianHead("separate", mean=(Linear("mean", 256, 32),), scale=(Linear("logvar", 256, 32),)),
        decoder=(Linear("d0", 32, 256), relu, Linear("d1", 256, 512), relu, Linear("d2", 512, 784)),
        likelihood=Bernoulli(),
        name="mlp",
    )
    weights = {}
    for stream, (name, shape) in enumerate(spec.tensors().items()):
        values = sample_normal(shape[0], shape[-1], seed=0, stream=stream)
        weights[name] = values / shape[-1] ** 0.5 if len(shape) > 1 else 0.1 * values[:, 0]
    return Model(spec, weights)


MODELS = ("mlp", "digits", "mnist", "breast_cancer")


@functools.cache
def model(name: str) -> Model:
    """The model a case names: the MLP, or an embedded one."""
    if name == "mlp":
        return mlp()
    return native.read(resolve(name))


def cases(models: tuple[str, ...] = MODELS, rows: tuple[int, ...] = ROWS) -> list[Case]:
    """All cases of these models and numbers of rows."""
    return [Case(name, verb, n) for name in models for verb in VERBS for n in rows]


@functools.lru_cache(maxsize=4)
def inputs(name: str, rows: int) -> tuple[Tensor, Tensor]:
    """Data x (rows, *input_shape), in [0, 1] or samples of the model, and latents z (rows, *latent_shape)."""
    spec = model(name).spec
    z = sample_normal(rows, spec.latent_dim, seed=1).reshape(rows, *spec.latent_shape)
    if isinstance(spec.likelihood, Bernoulli):
        x = sample_uniform(rows, torch.Size(spec.input_shape).numel(), seed=2)
        return x.reshape(rows, *spec.input_shape), z
    return fastvae.VAE(model(name)).generate(rows, seed=2, output="sample", kind="torch"), z
