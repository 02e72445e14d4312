"""The models that are measured: the dense and the convolutional reference models, and the embedded ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from torch import Tensor

from fastvae.embedded import resolve
from fastvae.formats import native
from fastvae.formats.disentangling_vae import burgess_spec
from fastvae.layers import Activation, Conv2d, ConvTranspose2d, Linear
from fastvae.model import Model
from fastvae.spec import Bernoulli, GaussianHead, ModelSpec
from fastvae_kernels import sample_normal


def mlp_spec() -> ModelSpec:
    """784-512-256-(2x32)-256-512-784 with ReLU."""
    relu = Activation("relu")
    return ModelSpec(
        input_shape=(784,),
        latent_shape=(32,),
        encoder=(Linear("e0", 784, 512), relu, Linear("e1", 512, 256), relu),
        posterior=GaussianHead("separate", mean=(Linear("mean", 256, 32),), scale=(Linear("logvar", 256, 32),)),
        decoder=(Linear("d0", 32, 256), relu, Linear("d1", 256, 512), relu, Linear("d2", 512, 784)),
        likelihood=Bernoulli(),
        name="mlp",
    )


# conv32 and conv64 are the disentangling-vae library's networks for 1x32x32 and 3x64x64 images.
RANDOM: dict[str, Callable[[], ModelSpec]] = {
    "mlp": mlp_spec,
    "conv32": lambda: burgess_spec(1, 32, 10, likelihood=Bernoulli(), name="conv32"),
    "conv64": lambda: burgess_spec(3, 64, 10, likelihood=Bernoulli(), name="conv64"),
}
EMBEDDED = ("digits", "mnist", "breast_cancer")
MODELS = (*RANDOM, *EMBEDDED)


def random_weights(spec: ModelSpec) -> dict[str, Tensor]:
    """Normal weights of variance 2 / fan-in, which keep a ReLU network's activations near one, and small biases."""
    terms = {
        layer.name: _fan_in(layer)
        for stack in spec.stacks()
        for layer in stack
        if isinstance(layer, Linear | Conv2d | ConvTranspose2d)
    }
    weights = {}
    for stream, (name, shape) in enumerate(spec.tensors().items()):
        values = sample_normal(shape[0], math.prod(shape[1:]), seed=0, stream=stream).reshape(shape)
        owner, _, role = name.rpartition(".")
        weights[name] = values * ((2 / terms[owner]) ** 0.5 if role == "weight" else 0.1)
    return weights


def _fan_in(layer: Linear | Conv2d | ConvTranspose2d) -> float:
    """Products summed into one output value; each step of a transposed convolution skips part of its kernel."""
    if isinstance(layer, Linear):
        return layer.in_features
    taps = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    return taps / math.prod(layer.stride) if isinstance(layer, ConvTranspose2d) else taps


@functools.cache
def model(name: str) -> Model:
    """The model called ``name``: one of MODELS."""
    if name in RANDOM:
        spec = RANDOM[name]()
        return Model(spec, random_weights(spec))
    return native.read(resolve(name))


def is_convolutional(spec: ModelSpec) -> bool:
    """Whether memory formats make a difference to the model."""
    return any(isinstance(layer, Conv2d | ConvTranspose2d) for stack in spec.stacks() for layer in stack)
