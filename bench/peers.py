"""Who is measured: fastvae, and what a user would run without it. A peer turns a case into a call to time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

import fastvae
from bench.cases import STEPS, Case, inputs, model
from bench.spec_module import SpecModule, kl_to_prior
from fastvae.spec import Bernoulli

Call: TypeAlias = Callable[[], Tensor]


@functools.cache
def _vae(name: str) -> fastvae.VAE:
    return fastvae.VAE(model(name))


def fastvae_peer(case: Case) -> Call:
    """fastvae as loaded by default; tensors in, tensors out."""
    vae, (x, z) = _vae(case.model), inputs(case.model, case.rows)
    calls: dict[str, Call] = {
        "generate": lambda: vae.generate(case.rows, seed=1, kind="torch"),
        "encode": lambda: vae.encode(x).mean,
        "decode": lambda: vae.decode(z),
        "reconstruct": lambda: vae.reconstruct(x),
        "score": lambda: vae.score(x, "elbo"),
        "interpolate": lambda: vae.interpolate(z, z.flip(0), STEPS, space="latent"),
    }
    return calls[case.verb]


@functools.cache
def _module(name: str) -> SpecModule:
    module = SpecModule(model(name).spec)
    module.load_state_dict(dict(model(name).weights))
    return module.eval()


def eager_peer(case: Case) -> Call:
    """The same model as an ordinary ``nn.Module`` in eager PyTorch under ``inference_mode``."""
    module, (x, z) = _module(case.model), inputs(case.model, case.rows)
    spec = module.spec

    def output(latents: Tensor) -> Tensor:
        features = module.decode(latents)
        return torch.sigmoid(features) if isinstance(spec.likelihood, Bernoulli) else features

    def score() -> Tensor:
        mean, logvar = module.encode(x)
        return kl_to_prior(mean, logvar) - module.log_likelihood(x, module.decode(mean))

    def interpolate() -> Tensor:
        weights = torch.linspace(0, 1, STEPS).reshape(1, STEPS, *[1] * (z.ndim - 1))
        latents = torch.lerp(z[:, None], z.flip(0)[:, None], weights).flatten(0, 1)
        return output(latents).reshape(len(z), STEPS, *spec.input_shape)

    calls: dict[str, Call] = {
        "generate": lambda: output(torch.randn(case.rows, *spec.latent_shape)),
        "encode": lambda: module.encode(x)[0],
        "decode": lambda: output(z),
        "reconstruct": lambda: output(module.encode(x)[0]),
        "score": score,
        "interpolate": interpolate,
    }
    return torch.inference_mode()(calls[case.verb])


PEERS: dict[str, Callable[[Case], Call]] = {"fastvae": fastvae_peer, "eager": eager_peer}
BASELINE = "eager"


def verify(case: Case, found: Tensor) -> float:
    """The distance of ``found`` to eager PyTorch's result, relative to its largest magnitude; raises if too far.

    For ``generate``, whose noise differs by design, eager decodes fastvae's noise. The budget is that of
    float32 through at most 16 layers of inner products over at most 1,024 terms: 16 * sqrt(1024) * 2**-24.
    """
    same = Case(case.model, "decode", case.rows) if case.verb == "generate" else case
    expected = eager_peer(same)()
    distance = float((found - expected).abs().max() / expected.abs().max())
    if not distance < 16 * 1024**0.5 * 2.0**-24:
        raise AssertionError(f"{case}: differs from eager PyTorch by {distance:.2e} of the largest value")
    return distance
