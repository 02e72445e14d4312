"""Each verb as a user writes it over an ordinary ``nn.Module``: what eager PyTorch runs, is compiled and is exported.

``generate`` is ``decode`` of latents that the user draws.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from bench.cases import STEPS
from bench.models import model
from fastvae.spec import Bernoulli
from fastvae.training import SpecModule, kl_to_prior


class Decode(nn.Module):
    """z (n, *latent_shape) -> E[x|z] (n, *input_shape)."""

    def __init__(self, vae: SpecModule) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        features = self.vae.decode(z)
        return torch.sigmoid(features) if isinstance(self.vae.spec.likelihood, Bernoulli) else features


class Encode(nn.Module):
    """x (n, *input_shape) -> posterior mean and log-variance, each (n, *latent_shape)."""

    def __init__(self, vae: SpecModule) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.vae.encode(x)


class Reconstruct(nn.Module):
    """x (n, *input_shape) -> E[x|z] at the posterior mean (n, *input_shape)."""

    def __init__(self, vae: SpecModule) -> None:
        super().__init__()
        self.vae, self.decode = vae, Decode(vae)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.decode(self.vae.encode(x)[0])
        return result


class Score(nn.Module):
    """x (n, *input_shape) -> the negative ELBO at the posterior mean, nats (n,)."""

    def __init__(self, vae: SpecModule) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> Tensor:
        mean, logvar = self.vae.encode(x)
        return kl_to_prior(mean, logvar) - self.vae.log_likelihood(x, self.vae.decode(mean))


class Interpolate(nn.Module):
    """Latents a, b (n, *latent_shape) -> STEPS points from one to the other, decoded: (n, STEPS, *input_shape)."""

    def __init__(self, vae: SpecModule) -> None:
        super().__init__()
        self.vae, self.decode = vae, Decode(vae)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        weights = torch.linspace(0, 1, STEPS).reshape(1, STEPS, *[1] * (a.ndim - 1))
        latents = torch.lerp(a[:, None], b[:, None], weights).flatten(0, 1)
        result: Tensor = self.decode(latents)
        return result.reshape(-1, STEPS, *self.vae.spec.input_shape)


MODULES: dict[str, type[nn.Module]] = {
    "generate": Decode,
    "encode": Encode,
    "decode": Decode,
    "reconstruct": Reconstruct,
    "score": Score,
    "interpolate": Interpolate,
}


@functools.cache
def verb_module(name: str, verb: str, memory_format: torch.memory_format = torch.contiguous_format) -> nn.Module:
    """The module of a verb of the model called ``name``, in evaluation mode, weights in that memory format."""
    vae = SpecModule(model(name).spec)
    vae.load_state_dict(dict(model(name).weights))
    module = MODULES[verb](vae).eval().requires_grad_(False)
    module.to(memory_format=memory_format)  # type: ignore[call-overload]  # the stub lacks it
    return module
