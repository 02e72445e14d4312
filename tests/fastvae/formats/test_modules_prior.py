"""``fastvae.from_modules``: priors that are mixtures, against torch.distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

import fastvae
from fastvae.errors import InputError, UnsupportedError, WeightMismatchError
from fastvae.heads import GaussianMixture, VampPrior
from tests.fastvae.formats.made_modules import FEATURES, LATENT, Heads, decoder_module, rows_of, shaken

COMPONENTS = 4
WEIGHTS = torch.tensor([0.1, 0.2, 0.3, 0.4])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MEANS, LOGVARS = numbers(COMPONENTS, LATENT), numbers(COMPONENTS, LATENT, seed=1)
PSEUDO = numbers(COMPONENTS, FEATURES, seed=2)


def mixture(weights: Tensor, means: Tensor, logvars: Tensor) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(weights), Independent(Normal(means, (logvars / 2).exp()), 1))


def taken(prior: Any) -> fastvae.VAE:
    encoder, decoder = shaken(Heads()).double(), shaken(decoder_module()).double()
    x = rows_of((FEATURES,)).double()
    return fastvae.from_modules(encoder, decoder, likelihood="gaussian", example_input=x, prior=prior, impl="reference")


def expected(vae: fastvae.VAE, prior: Any, x: Tensor) -> Tensor:
    """KL(q || p) by the draws that the model makes."""
    posterior = vae.encode(x)
    z = posterior.sample(5, 64)
    q = Independent(Normal(posterior.mean, (posterior.logvar / 2).exp()), 1)
    return (q.log_prob(z) - prior.log_prob(z)).mean(0)


@pytest.mark.parametrize(
    ("argument", "weights"),
    [
        (mixture(WEIGHTS, MEANS, LOGVARS), WEIGHTS),
        ({"means": MEANS, "logvars": LOGVARS, "weights": WEIGHTS}, WEIGHTS),
        ({"means": MEANS.numpy(), "logvars": LOGVARS, "logits": WEIGHTS.log() + 3}, WEIGHTS),
        ({"means": MEANS, "logvars": LOGVARS}, torch.ones(COMPONENTS)),
    ],
    ids=["torch", "weights", "logits", "uniform"],
)
def test_a_mixture_is_that_of_torch(argument: Any, weights: Tensor) -> None:
    vae, x = taken(argument), rows_of((FEATURES,)).double()
    assert isinstance(vae.spec.prior, GaussianMixture)
    prior = mixture(weights.double(), MEANS.double(), LOGVARS.double())
    torch.testing.assert_close(vae.score(x, "kl", samples=64, seed=5), expected(vae, prior, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_vamp_prior_is_a_mixture_of_posteriors(weights: Tensor | None) -> None:
    vae = taken(PSEUDO if weights is None else {"pseudo_inputs": PSEUDO, "weights": weights})
    assert isinstance(vae.spec.prior, VampPrior)
    at, x = vae.encode(PSEUDO.double()), rows_of((FEATURES,)).double()
    prior = mixture(torch.ones(COMPONENTS).double() if weights is None else weights.double(), at.mean, at.logvar)
    torch.testing.assert_close(vae.score(x, "kl", samples=64, seed=5), expected(vae, prior, x), rtol=1e-6, atol=1e-6)


def test_a_prior_is_in_the_file(tmp_path: Any) -> None:
    vae = taken(PSEUDO)
    vae.save(tmp_path / "model.safetensors")
    again = fastvae.load(tmp_path / "model.safetensors", impl="reference")
    assert again.spec.prior == vae.spec.prior
    np.testing.assert_array_equal(again.generate(5), vae.generate(5))


@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        ("vamp", InputError, "expected a torch.distributions.MixtureSameFamily of .*got 'vamp'"),
        ({"means": MEANS}, InputError, "got a mapping with 'means'"),
        ({"means": MEANS, "logvars": LOGVARS, "weights": WEIGHTS, "logits": WEIGHTS}, InputError, "got a mapping with"),
        ({"means": MEANS, "logvars": LOGVARS, "scale": WEIGHTS}, InputError, "got a mapping with 'means', 'logvars'"),
        (
            {"means": MEANS[:, :2], "logvars": LOGVARS},
            InputError,
            r"prior.means of shape \(components, 3\), got \(4, 2\)",
        ),
        ({"means": MEANS, "logvars": LOGVARS[:2]}, InputError, r"prior.logvars of shape .*, got \(2, 3\)"),
        (
            {"means": MEANS, "logvars": LOGVARS, "weights": WEIGHTS[:2]},
            InputError,
            r"weights of shape \(4,\), got \(2,\)",
        ),
        ({"means": MEANS, "logvars": [[0.0]]}, InputError, "logvars must be a tensor or an array of finite floats"),
        ({"means": MEANS / 0, "logvars": LOGVARS}, InputError, "means must be a tensor or an array of finite floats"),
        (PSEUDO[0, 0], InputError, r"prior.pseudo_inputs of shape \(components, 6\), got \(\)"),
        (PSEUDO[:, :2], InputError, r"prior.pseudo_inputs of shape \(components, 6\), got \(4, 2\)"),
        (MixtureSameFamily(Categorical(WEIGHTS), Normal(MEANS[:, 0], 1.0)), InputError, "got MixtureSameFamily"),
        (
            MixtureSameFamily(Categorical(WEIGHTS), MultivariateNormal(MEANS, torch.eye(LATENT))),
            UnsupportedError,
            "components with full covariances are not supported; .*fit_sampler",
        ),
        (
            {"means": MEANS, "logvars": LOGVARS, "weights": 2 * WEIGHTS},
            WeightMismatchError,
            "probabilities that add up",
        ),
    ],
)
def test_priors_that_are_refused(prior: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        taken(prior)
