"""Samplers fitted after training: whose latents they have, what they leave as it was, and where they are kept."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest

import fastvae
import fastvae.bulk
from fastvae.errors import InputError, JobError, UnsupportedError
from fastvae.layers import Linear
from fastvae.priors import mixture
from fastvae.spec import Condition, GaussianMixture, PointHead
from tests.fastvae.support import SPECS, conv_spec, data_for, linear_gaussian, mlp_spec, random_model, vae

MODEL = linear_gaussian()
# Latents of two clumps, which no standard normal has.
Z = np.random.default_rng(0).normal(size=(900, 2)) * [0.2, 0.5] + np.where(np.arange(900) % 3 == 0, 3, -1)[:, None]
X = Z @ MODEL.W.T + MODEL.b


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_samples_have_the_latents_of_the_data(covariance: Any) -> None:
    plain = MODEL.vae()
    fitted = plain.fit_sampler(X, 2, 1, covariance=covariance)
    z = plain.encode(X).sample(5)
    drawn = fitted._engine.draws.for_samples(4000, seed=1, start=0).numpy()
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.7, 0.7]) if covariance == "full" else ([1.0, 0.0], [0.0, 1.0]):
        assert kstest(drawn @ direction, np.asarray(z) @ direction).pvalue > 0.01
    assert (
        kstest(plain._engine.draws.for_samples(4000, seed=1, start=0)[:, 0].numpy(), np.asarray(z)[:, 0]).pvalue < 1e-9
    )
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(np.asarray(z).T), atol=0.15)


def test_full_covariances_by_columns_are_matrix_products() -> None:
    factors = torch.randn(3, 4, 4, dtype=torch.float64).tril()
    weights = {"s.weights": torch.tensor([0.2, 0.5, 0.3]), "s.means": torch.randn(3, 4), "s.factors": factors}
    found = mixture(GaussianMixture(3, "s", covariance="full"), weights, torch.device("cpu"), lambda x: (x, x))
    noise = torch.randn(50, 4, dtype=torch.float64)
    uniform = torch.linspace(0.001, 0.999, 50)
    chosen = torch.bucketize(uniform, torch.tensor([0.2, 0.7]), right=True)
    expected = weights["s.means"].double()[chosen] + torch.einsum("nij,nj->ni", factors[chosen], noise)
    torch.testing.assert_close(found.draw(noise, uniform), expected)


def test_scores_and_imputation_keep_the_prior() -> None:
    plain = vae(mlp_spec(), batch_invariant=True)
    x = data_for(plain.spec, 60).astype(np.float32)
    fitted = plain.fit_sampler(x, 3)
    assert plain.spec.sampler is None
    for metric in ("elbo", "kl", "iwae"):
        np.testing.assert_array_equal(fitted.score(x, metric), plain.score(x, metric))  # type: ignore[arg-type]
    x[:, 0] = np.nan
    np.testing.assert_array_equal(fitted.impute(x, samples=20), plain.impute(x, samples=20))
    assert np.abs(fitted.generate(20) - plain.generate(20)).max() > 0.01
    # The noise of p(x|z) is that of the row, whatever z is.
    around = [model.generate(20, output="sample") - model.generate(20) for model in (fitted, plain)]
    np.testing.assert_allclose(*around, atol=1e-6)


def test_fits_repeat_and_replace(tmp_path: Path) -> None:
    plain = vae(mlp_spec(), batch_invariant=True)
    x = data_for(plain.spec, 60).astype(np.float32)
    fitted = plain.fit_sampler(torch.from_numpy(x), 3, 7)
    assert fitted.fingerprint == plain.fit_sampler(x, 3, 7).fingerprint != plain.fit_sampler(x, 3, 8).fingerprint
    again = fitted.fit_sampler(x, 4, covariance="diagonal")
    assert again.fingerprint == plain.fit_sampler(x, 4, covariance="diagonal").fingerprint
    fitted.save(tmp_path / "m.safetensors")
    loaded = fastvae.load(tmp_path / "m.safetensors", batch_invariant=True)
    np.testing.assert_array_equal(loaded.generate(9, 3, 2**40), fitted.generate(9, 3, 2**40))
    np.testing.assert_array_equal(fitted.generate(4, 3, 2**40 + 5), fitted.generate(9, 3, 2**40)[5:])
    assert loaded.card["sampler"] == "full mixture of 3, fitted to 60 rows, seed 7"


def test_jobs_tell_models_by_their_sampler(tmp_path: Path) -> None:
    plain = vae(mlp_spec(), batch_invariant=True)
    fitted = plain.fit_sampler(data_for(plain.spec, 60).astype(np.float32), 3)
    fastvae.bulk.generate(fitted, 30, tmp_path / "job", format="npy", workers=1)
    rows = np.concatenate([np.load(file) for file in sorted((tmp_path / "job").glob("shard-*.npy"))])
    np.testing.assert_array_equal(rows, fitted.generate(30))
    fastvae.bulk.verify(tmp_path / "job", model=fitted)
    with pytest.raises(JobError, match="weights"):
        fastvae.bulk.generate(plain, 30, tmp_path / "job", format="npy", workers=1)


def test_conditional_models_and_deterministic_encoders_have_samplers() -> None:
    conditional = vae(mlp_spec(condition=Condition(3)))
    labels = np.arange(40) % 3
    fitted = conditional.fit_sampler(data_for(conditional.spec, 40), 2, condition=labels)
    assert np.isfinite(fitted.generate(5, condition=1)).all()
    point = fastvae.VAE(random_model(replace(mlp_spec(), posterior=PointHead((Linear("q", 8, 3),)))))
    assert np.isfinite(point.fit_sampler(data_for(point.spec, 40), 2).generate(5)).all()
    image = vae(replace(conv_spec(), name="x"))
    assert image.fit_sampler(data_for(image.spec, 40), 2, covariance="diagonal").generate(2).shape == (2, 2, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"components": 0}, "components: expected an integer from 1"),
        ({"components": 21}, "x: expected at least as many rows as components, 21, got 20"),
        ({"covariance": "tied"}, "covariance: expected 'full' or 'diagonal'"),
        ({"seed": -1}, "seed: expected an integer"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    model = vae(mlp_spec())
    with pytest.raises(InputError, match=message):
        model.fit_sampler(data_for(model.spec, 20), **arguments)


def test_models_without_samplers(monkeypatch: pytest.MonkeyPatch) -> None:
    image = vae(SPECS["conv_standardised"])
    with pytest.raises(InputError, match="covariance: 'full' is for flat latents"):
        image.fit_sampler(data_for(image.spec, 20), 2)
    convolutions = vae(replace(image.spec, decoder=image.spec.decoder[:1]))
    with pytest.raises(UnsupportedError, match="is for images of any size"):
        convolutions.fit_sampler(data_for(convolutions.spec, 20), 2, covariance="diagonal")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"fastvae-engine\[sklearn\]"):
        vae(mlp_spec()).fit_sampler(data_for(mlp_spec(), 20), 2)


def test_a_fit_that_does_not_converge_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastvae.fitting.STEPS", 1)
    with caplog.at_level("WARNING", "fastvae"):
        MODEL.vae().fit_sampler(X, 9)
    assert "did not converge in 1 steps" in caplog.text
