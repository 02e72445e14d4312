"""A ModelSpec as a trainable ``nn.Module``, so that an architecture is written once.

The module's state dict has exactly the names and shapes ``spec.tensors()`` asks for: exporting a trained
model is ``Model(spec, module.state_dict())``, with nothing to rename or convert.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastvae.errors import UnsupportedError
from fastvae.layers import (
    Activation,
    Affine,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    Reshape,
    Residual,
    Shape,
    Stack,
    leaves,
)
from fastvae.spec import Bernoulli, GaussianHead, ModelSpec, PerDimensionGaussian

WithTensors: TypeAlias = Linear | Affine | BatchNorm | Conv2d | ConvTranspose2d

# Activations by their name in a spec, each with its defaults.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": F.gelu,
}


class AffineModule(nn.Module):
    """``y = x * scale + shift`` with constants of the data's shape; they are not trained."""

    scale: Tensor
    shift: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("shift", torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class BatchNormModule(nn.Module):
    """Batch normalisation of flat rows and of images alike, without PyTorch's counter of batches."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: BatchNorm) -> None:
        super().__init__()
        self.eps = layer.eps
        self.register_buffer("running_mean", torch.zeros(layer.num_features))
        self.register_buffer("running_var", torch.ones(layer.num_features))
        self.weight = nn.Parameter(torch.ones(layer.num_features)) if layer.affine else None
        self.bias = nn.Parameter(torch.zeros(layer.num_features)) if layer.affine else None

    def forward(self, x: Tensor) -> Tensor:
        statistics = (self.running_mean, self.running_var)
        return F.batch_norm(x, *statistics, self.weight, self.bias, training=self.training, eps=self.eps)


class SpecModule(nn.Module):
    """A VAE with the layers of ``spec`` and PyTorch's default initial weights.

    Raises:
        UnsupportedError: ``spec`` has a part that cannot be trained here (a condition, another likelihood, ...).
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        layers = _check_trainable(spec)
        self.spec = spec
        _add_layers(self, layers)
        if isinstance(spec.likelihood, PerDimensionGaussian):
            parent, _, leaf = spec.likelihood.name.rpartition(".")
            _submodule(self, parent).register_parameter(leaf, nn.Parameter(torch.zeros(spec.input_shape)))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance, each ``[n, *latent_shape]``, of rows ``[n, *input_shape]``."""
        features, posterior = self.run(self.spec.encoder, x), self.spec.posterior
        assert isinstance(posterior, GaussianHead)
        if posterior.layout == "separate":
            return self.run(posterior.mean, features), self.run(posterior.scale, features)
        joint = self.run(posterior.joint, features)
        if posterior.layout == "interleaved":
            return joint[:, ::2], joint[:, 1::2]
        mean, logvar = joint.chunk(2, 1)
        return mean, logvar

    def decode(self, z: Tensor) -> Tensor:
        """The likelihood's parameters ``[n, *input_shape]`` (logits or means) for ``[n, *latent_shape]``."""
        return self.run(self.spec.decoder, z)

    def run(self, stack: Stack, x: Tensor) -> Tensor:
        """``x`` after the layers of ``stack``."""
        for layer in stack:
            if isinstance(layer, Activation):
                x = FUNCTIONS[layer.function](x)
            elif isinstance(layer, Flatten):
                x = x.flatten(1)
            elif isinstance(layer, Reshape):
                x = x.reshape(-1, *layer.shape)
            elif isinstance(layer, Residual):
                x = self.run(layer.body, x) + self.run(layer.shortcut, x)
            elif isinstance(layer, WithTensors):
                x = self.get_submodule(layer.name)(x)
        return x

    @property
    def output_logvar(self) -> Tensor | None:
        """The learned log-variance of a Gaussian, in the shape of a row; None of a Bernoulli."""
        likelihood = self.spec.likelihood
        return self.get_parameter(likelihood.name) if isinstance(likelihood, PerDimensionGaussian) else None

    def log_likelihood(self, x: Tensor, features: Tensor) -> Tensor:
        """``log p(x | z)`` in nats, ``[n]``, of rows whose ``decode(z)`` is ``features``."""
        return self.log_likelihood_terms(x, features).flatten(1).sum(1)

    def log_likelihood_terms(self, x: Tensor, features: Tensor) -> Tensor:
        """What each entry adds to ``log p(x | z)``, in nats, in the shape of ``features``, to which ``x`` expands."""
        logvar = self.output_logvar
        if logvar is None:
            return -F.binary_cross_entropy_with_logits(features, x.expand_as(features), reduction="none")
        return -0.5 * (math.log(2 * math.pi) + logvar + (x - features).square() * torch.exp(-logvar))


def kl_to_prior(mean: Tensor, logvar: Tensor) -> Tensor:
    """``KL(N(mean, exp(logvar)) || N(0, I))`` in nats, ``[n]``, for ``[n, *latent_shape]``."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)


def _check_trainable(spec: ModelSpec) -> list[Layer]:
    """Every layer of ``spec``; UnsupportedError if a part of it cannot be trained."""
    likelihood = spec.likelihood
    if spec.condition is not None:
        raise UnsupportedError("only unconditional models can be trained")
    if not isinstance(spec.posterior, GaussianHead) or spec.posterior.parametrization != "logvar":
        raise UnsupportedError("only a posterior with a mean and a log-variance can be trained")
    if not isinstance(likelihood, Bernoulli | PerDimensionGaussian):
        raise UnsupportedError(f"a likelihood {likelihood.kind!r} cannot be trained")
    if isinstance(likelihood, PerDimensionGaussian) and (likelihood.parametrization, likelihood.eps) != ("logvar", 0):
        raise UnsupportedError("of a likelihood's variances only log-variances can be trained")
    layers = [layer for stack in spec.stacks() for layer in leaves(stack)]
    for layer in layers:
        if not isinstance(layer, WithTensors | Activation | Flatten | Reshape | Residual):
            raise UnsupportedError(f"a layer {layer.kind!r} cannot be trained")
        if isinstance(layer, Activation) and (layer.function not in FUNCTIONS or layer.alpha is not None):
            raise UnsupportedError(f"only {', '.join(FUNCTIONS)} can be trained, got {layer.function!r}")
    return layers


def _add_layers(root: nn.Module, layers: Iterable[Layer]) -> None:
    """A submodule of ``root`` for each of ``layers`` that has tensors; none of them is a residual."""
    for layer in layers:
        if not isinstance(layer, WithTensors):
            continue
        parent, _, leaf = layer.name.rpartition(".")
        _submodule(root, parent).add_module(leaf, _trainable(layer))


def _submodule(root: nn.Module, path: str) -> nn.Module:
    """The container at the dotted ``path``, made where missing."""
    for part in filter(None, path.split(".")):
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root


def _trainable(layer: WithTensors) -> nn.Module:
    if isinstance(layer, Linear):
        return nn.Linear(layer.in_features, layer.out_features, bias=layer.bias)
    if isinstance(layer, Affine):
        return AffineModule(layer.shape)
    if isinstance(layer, BatchNorm):
        return BatchNormModule(layer)
    if isinstance(layer, Conv2d):
        return nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.bias,
        )
    return nn.ConvTranspose2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.output_padding,
        layer.groups,
        layer.bias,
        layer.dilation,
    )
