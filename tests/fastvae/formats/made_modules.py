"""Modules as people write them, and what ``fastvae.from_modules`` must make of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvae
from fastvae.layers import Activation, Layer, leaves
from fastvae.spec import Bernoulli

FEATURES, LATENT = 6, 3


class Heads(nn.Module):
    """An encoder with a body of any kind and two linear heads."""

    def __init__(self, body: nn.Module | None = None, features: int = FEATURES, latent: int = LATENT) -> None:
        super().__init__()
        self.body = body or nn.Sequential(nn.Linear(FEATURES, features), nn.Tanh())
        self.mean = nn.Linear(features, latent)
        self.logvar = nn.Linear(features, latent)

    def forward(self, x: Tensor) -> Any:
        h = self.body(x)
        return self.mean(h), self.logvar(h)


class Block(nn.Module):
    """A residual block as most people write one: an addition in ``forward``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


class Function(nn.Module):
    """Any function of one tensor as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def decoder_module() -> nn.Module:
    return nn.Sequential(nn.Linear(LATENT, 8), nn.ReLU(), nn.Linear(8, FEATURES))


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """``module`` with every number moved: no bias, statistic or scale is left at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 + 0.2 * torch.rand(value.shape, generator=generator).to(value))
    return module


def rows_of(shape: tuple[int, ...], rows: int = 5) -> Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(7))


def converted(
    encoder: nn.Module,
    decoder: nn.Module | None = None,
    *,
    shape: tuple[int, ...] = (FEATURES,),
    likelihood: Any = "gaussian",
    parametrization: Any = "logvar",
    logvar: Callable[[Tensor], Tensor] = lambda second: second,
) -> fastvae.VAE:
    """The VAE made of the modules, whose numbers are compared with theirs, and which must be as they were.

    ``logvar`` makes the log-variance of the encoder's second output.
    """
    decoder = decoder or decoder_module()
    modules = shaken(encoder), shaken(decoder)
    before = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    training = [[part.training for part in module.modules()] for module in modules]
    x = rows_of(shape)
    vae = fastvae.from_modules(
        encoder, decoder, likelihood=likelihood, example_input=x, parametrization=parametrization, impl="reference"
    )
    for module, state, flags in zip(modules, before, training, strict=True):
        assert [part.training for part in module.modules()] == flags
        for name, value in module.state_dict().items():
            torch.testing.assert_close(value, state[name], rtol=0, atol=0)
    with torch.no_grad():
        found, wanted = vae.encode(x), two(copy.deepcopy(encoder).eval()(x))
        torch.testing.assert_close(found.mean, wanted[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.logvar, logvar(wanted[1]), rtol=1e-4, atol=1e-5)
        z = torch.randn(4, *vae.spec.latent_shape, generator=torch.Generator().manual_seed(8))
        output = copy.deepcopy(decoder).eval()(z)
        output = output[0] if isinstance(output, tuple) else output
        is_bernoulli = isinstance(vae.spec.likelihood, Bernoulli)
        probabilities = output if not is_bernoulli or bool(((output >= 0) & (output <= 1)).all()) else output.sigmoid()
        torch.testing.assert_close(vae.decode(z), probabilities, rtol=1e-4, atol=1e-5)
    return vae


def two(output: Any) -> tuple[Tensor, Tensor]:
    """Mean and the second output in any of the accepted containers."""
    if isinstance(output, Tensor):
        first, second = output.chunk(2, 1)
        return first, second
    if isinstance(output, dict):
        first, second = output.values()
        return first, second
    return output[0], output[1]


def all_leaves(vae: fastvae.VAE) -> list[Layer]:
    return [layer for stack in vae.spec.stacks() for layer in leaves(stack)]


class Containers(Heads):
    """Returns what ``pack`` makes of both."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(*super().forward(x))


def conv_encoder(body: nn.Module | None = None) -> nn.Module:
    stem = body or nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4, affine=False), nn.LeakyReLU(0.2, True)
    )
    return Heads(nn.Sequential(stem, nn.Conv2d(4, 4, 3, padding="same", groups=2), nn.SiLU(), nn.Flatten()), 64)


def conv_decoder(last: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(
        nn.Linear(LATENT, 64),
        nn.Unflatten(1, (4, 4, 4)),
        nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.Conv2d(4, 2, 3, padding=2, dilation=2),
        last or nn.Sigmoid(),
    )


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Activation]] = {
    "relu": (F.relu, Activation("relu")),
    "relu_": (lambda x: torch.relu_(x.clone()), Activation("relu")),
    "clamp": (lambda x: x.clamp(min=0), Activation("relu")),
    "threshold": (lambda x: F.threshold(x, 0, 0), Activation("relu")),
    "leaky_relu": (F.leaky_relu, Activation("leaky_relu")),
    "leaky_relu 0.3": (lambda x: F.leaky_relu(x, 0.3), Activation("leaky_relu", 0.3)),
    "elu": (F.elu, Activation("elu")),
    "elu 0.5": (lambda x: F.elu(x, 0.5), Activation("elu", 0.5)),
    "selu": (F.selu, Activation("selu")),
    "gelu": (F.gelu, Activation("gelu")),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), Activation("gelu_tanh")),
    "silu": (F.silu, Activation("silu")),
    "x sigmoid": (lambda x: x * torch.sigmoid(x), Activation("silu")),
    "sigmoid x": (lambda x: torch.sigmoid(x) * x, Activation("silu")),
    "tanh": (torch.tanh, Activation("tanh")),
    "sigmoid": (torch.sigmoid, Activation("sigmoid")),
    "softplus": (F.softplus, Activation("softplus")),
}
