"""``fastvae.from_modules``: every way to return a mean and a scale, and every likelihood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvae
from fastvae.layers import Linear
from fastvae.spec import FixedGaussian, PerDimensionGaussian, PredictedGaussian
from tests.fastvae.formats.made_modules import (
    FEATURES,
    LATENT,
    Containers,
    Function,
    Heads,
    converted,
    decoder_module,
    rows_of,
)


class Named(NamedTuple):
    logvar: Tensor
    mean: Tensor


@pytest.mark.parametrize(
    "pack",
    [
        lambda mean, logvar: [mean, logvar],
        lambda mean, logvar: {"mean": mean, "logvar": logvar},
        lambda mean, logvar: {"mu": mean, "log_var": logvar},
        lambda mean, logvar: torch.cat([mean, logvar], 1),
    ],
    ids=["list", "mean logvar", "mu log_var", "one tensor by cat"],
)
def test_containers(pack: Callable[[Tensor, Tensor], Any], request: pytest.FixtureRequest) -> None:
    if "cat" in request.node.name:
        with pytest.raises(fastvae.errors.UnsupportedError, match=r"aten\.cat\.default in module 'encoder'"):
            converted(Containers(pack))
        return
    vae = converted(Containers(pack))
    assert vae.spec.posterior.mean == (Linear("encoder.mean", 6, 3),)


@dataclass
class Result:
    mu: Tensor
    logvar: Tensor
    features: Tensor


torch.export.register_dataclass(Result)


def test_data_classes() -> None:
    encoder = Containers(lambda mean, logvar: Result(mean, logvar, mean.flip(1)))
    vae = fastvae.from_modules(encoder, decoder_module(), likelihood="gaussian", example_input=rows_of((FEATURES,)))
    assert vae.spec.posterior.mean == (Linear("encoder.mean", 6, 3),)


def test_names_decide_over_order() -> None:
    encoder = Containers(lambda mean, logvar: Named(logvar, mean))
    vae = fastvae.from_modules(encoder, decoder_module(), likelihood="gaussian", example_input=rows_of((FEATURES,)))
    assert vae.spec.posterior.mean == (Linear("encoder.mean", 6, 3),)


def test_what_the_model_does_not_need_may_be_anything() -> None:
    """Many encoders return a random z as well."""

    def pack(mean: Tensor, logvar: Tensor) -> dict[str, Tensor]:
        return {"mean": mean, "logvar": logvar, "z": mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)}

    x = rows_of((FEATURES,))
    vae = fastvae.from_modules(Containers(pack), decoder_module(), likelihood="gaussian", example_input=x)
    assert vae.spec.latent_shape == (LATENT,)


JOINT: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "one tensor": (lambda h: h, "chunked"),
    "chunk": (lambda h: h.chunk(2, dim=1), "chunked"),
    "chunk last": (lambda h: h.chunk(2, dim=-1), "chunked"),
    "split": (lambda h: torch.split(h, LATENT, 1), "chunked"),
    "split sizes": (lambda h: torch.split(h, [LATENT, LATENT], 1), "chunked"),
    "slices": (lambda h: (h[:, :LATENT], h[:, LATENT:]), "chunked"),
    "negative slices": (lambda h: (h[..., :-LATENT], h[..., -LATENT:]), "chunked"),
    "narrow": (lambda h: (h.narrow(1, 0, LATENT), h.narrow(1, LATENT, LATENT)), "chunked"),
    "tensor_split": (lambda h: torch.tensor_split(h, 2, dim=1), "chunked"),
    "selected": (lambda h: (h.view(-1, 2, LATENT)[:, 0, :], h.view(-1, 2, LATENT)[:, 1]), "chunked"),
    "strided": (lambda h: (h[:, 0::2], h[:, 1::2]), "interleaved"),
    "scaled": (lambda h: (3 * h[:, :LATENT] + 1, h[:, LATENT:] / 2), "chunked"),
    "scaled strided": (lambda h: (h[:, 0::2], 0.5 * h[:, 1::2] - 1), "interleaved"),
}


@pytest.mark.parametrize("name", JOINT)
def test_joint_heads(name: str) -> None:
    function, layout = JOINT[name]
    vae = converted(nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 2 * LATENT), Function(function)))
    assert vae.spec.posterior.layout == layout
    assert vae.spec.posterior.joint[0] == Linear("encoder.2", 8, 2 * LATENT)


def test_a_joint_head_of_images() -> None:
    """Halves of channels, each flattened, are halves of the flattened channels."""
    body = nn.Sequential(nn.Conv2d(2, 4, 3, 1, 1), Function(lambda h: [half.flatten(1) for half in h.chunk(2, 1)]))
    vae = converted(body, nn.Sequential(nn.Linear(32, 32), nn.Unflatten(1, (2, 4, 4))), shape=(2, 4, 4))
    assert vae.spec.posterior.layout == "chunked"
    viewed = nn.Sequential(nn.Linear(6, 6), Function(lambda h: [half.view(-1, 1, 3, 1) for half in h.chunk(2, 1)]))
    assert converted(viewed, nn.Sequential(nn.Flatten(), decoder_module())).spec.latent_shape == (1, 3, 1)
    spatial = converted(nn.Conv2d(2, 4, 3, 1, 1), nn.Conv2d(2, 2, 1), shape=(2, 4, 4))
    assert spatial.spec.latent_shape == (2, 4, 4)


def test_clamps_of_the_log_variance() -> None:
    vae = converted(Containers(lambda mean, logvar: (mean, torch.clamp(logvar, -0.1, 0.1))))
    assert (vae.spec.posterior.logvar_min, vae.spec.posterior.logvar_max) == (-0.1, 0.1)
    vae = converted(Containers(lambda mean, logvar: (mean, logvar.clamp(max=0.1).clamp(max=0.05))))
    assert (vae.spec.posterior.logvar_min, vae.spec.posterior.logvar_max) == (None, 0.05)
    vae = converted(Containers(lambda mean, logvar: (mean, logvar.clamp(min=0.1).clamp(min=0.05))))
    assert (vae.spec.posterior.logvar_min, vae.spec.posterior.logvar_max) == (0.1, None)


SPREADS: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "logvar": (lambda h: h, "logvar", "logvar"),
    "log of variance": (lambda h: torch.log(F.softplus(h) + 0.01), "logvar", "variance"),
    "twice log of std": (lambda h: 2 * torch.log(F.softplus(h) + 0.01), "logvar", "softplus_std"),
    "logstd": (lambda h: h, "logstd", "logvar"),
    "logstd limited": (lambda h: h.clamp(-0.2, 0.3), "logstd", "logvar"),
    "exp": (torch.exp, "std", "logvar"),
    "exp of half": (lambda h: torch.exp(0.5 * h), "std", "logvar"),
    "exp of half of limited": (lambda h: torch.exp(0.5 * h.clamp(-0.2, 0.3)), "std", "logvar"),
    "exp limited": (lambda h: torch.exp(h).clamp(min=0.9, max=1.1), "std", "logvar"),
    "sqrt": (lambda h: torch.sqrt(F.softplus(h) + 1e-3), "std", "variance"),
    "sqrt of exp": (lambda h: torch.sqrt(torch.exp(h)), "std", "logvar"),
    "softplus": (F.softplus, "std", "softplus_std"),
    "softplus and eps": (lambda h: F.softplus(h) + 1e-3, "std", "softplus_std"),
    "softplus limited": (lambda h: F.softplus(h).clamp_min(0.5), "std", "softplus_std"),
    "raw": (lambda h: h, "softplus_std", "softplus_std"),
    "raw limited": (lambda h: h.clamp(-0.2, 0.3), "softplus_std", "softplus_std"),
    "variance by exp": (torch.exp, "variance", "logvar"),
    "variance by softplus": (lambda h: F.softplus(h) + 1e-3, "variance", "variance"),
}
TO_LOGVAR: dict[str, Callable[[Tensor], Tensor]] = {
    "logvar": lambda s: s,
    "logstd": lambda s: 2 * s,
    "std": lambda s: 2 * s.log(),
    "variance": lambda s: s.log(),
    "softplus_std": lambda s: 2 * F.softplus(s).log(),
}


@pytest.mark.parametrize("name", SPREADS)
def test_parametrizations(name: str) -> None:
    function, said, stored = SPREADS[name]
    encoder = Containers(lambda mean, raw: (mean, function(3 * raw - 1)))
    vae = converted(encoder, parametrization=said, logvar=TO_LOGVAR[said])
    assert vae.spec.posterior.parametrization == stored


def test_a_mapping_that_names_another_parametrization() -> None:
    encoder = Containers(lambda mean, raw: {"mean": mean, "std": torch.exp(raw)})
    with pytest.raises(fastvae.errors.InputError, match="pass parametrization='std'"):
        converted(encoder)
    assert converted(encoder, parametrization="std", logvar=TO_LOGVAR["std"]).spec.posterior.parametrization == "logvar"


@pytest.mark.parametrize(
    ("likelihood", "expected"),
    [
        ("gaussian", FixedGaussian(1.0)),
        (0.25, FixedGaussian(0.25)),
        (2, FixedGaussian(2.0)),
        (FixedGaussian(3.0), FixedGaussian(3.0)),
        (torch.linspace(-1, 1, FEATURES), PerDimensionGaussian()),
        (torch.tensor(0.5, dtype=torch.float64), PerDimensionGaussian()),
    ],
)
def test_likelihoods(likelihood: Any, expected: Any) -> None:
    vae = converted(Heads(), likelihood=likelihood)
    assert vae.spec.likelihood == expected
    if isinstance(likelihood, Tensor):
        stored = vae._model.weights[PerDimensionGaussian().name]
        torch.testing.assert_close(stored, likelihood.float().expand(FEATURES))


def test_a_predicted_variance() -> None:
    decoder = Heads(nn.Sequential(nn.Linear(LATENT, 8), nn.ReLU()), 8, FEATURES)
    vae = converted(Heads(), decoder)
    assert isinstance(vae.spec.likelihood, PredictedGaussian)
    x = rows_of((FEATURES,))
    with torch.no_grad():
        mean, logvar = decoder(vae.embed(x))
    expected = 0.5 * (np.log(2 * np.pi) + logvar + (x - mean).square() / logvar.exp()).sum(1)
    torch.testing.assert_close(vae.score(x), expected, rtol=1e-4, atol=1e-4)
