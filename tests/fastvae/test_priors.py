"""Priors that are mixtures: densities against torch.distributions, draws against their distribution, every verb."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare, kstest, norm
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import fastvae
import fastvae.bulk
from fastvae import VAE
from fastvae.errors import WeightFormatError, WeightMismatchError
from fastvae.heads import GaussianMixture, VampPrior
from fastvae.layers import Linear
from fastvae.model import Model, check_model, fingerprint
from fastvae.priors import Mixture, StandardNormal
from fastvae.runtime import Settings
from fastvae.spec import Condition, ModelSpec, PointHead
from fastvae.spec_json import spec_from_json, spec_to_json
from tests.fastvae.support import LinearGaussian, conv_spec, data_for, linear_gaussian, mlp_spec, random_model

PRIORS = {
    "gaussian_mixture": GaussianMixture(4),
    "logits": GaussianMixture(4, weights="logits"),
    "vamp_prior": VampPrior(5),
    "weighted_vamp": VampPrior(5, weights="logits"),
}


def model_of(spec: ModelSpec, **fields: Any) -> Model:
    """A random model of ``spec`` with these priors, its probabilities normalised and its factors triangular."""
    spec = replace(spec, **fields)
    model = random_model(spec)
    weights = dict(model.weights)
    for mixture in spec.mixtures():
        if mixture.weights == "probabilities":
            weights[f"{mixture.name}.weights"] = weights[f"{mixture.name}.weights"].double().softmax(0).float()
        if isinstance(mixture, VampPrior):
            weights[f"{mixture.name}.pseudo_inputs"] = weights[f"{mixture.name}.pseudo_inputs"].abs()
        else:
            weights[f"{mixture.name}.means"] = 2 * weights[f"{mixture.name}.means"]
            if mixture.covariance == "full":
                factors = weights[f"{mixture.name}.factors"].tril()
                factors.diagonal(dim1=1, dim2=2).abs_().add_(0.1)
                weights[f"{mixture.name}.factors"] = factors
    return check_model(Model(spec, weights), source="test", cast=True)


def with_prior(name: str, spec: ModelSpec | None = None, **settings: Any) -> VAE:
    return VAE(model_of(spec or mlp_spec(), prior=PRIORS[name]), Settings(**settings))


def distribution(vae: VAE) -> MixtureSameFamily:
    """The prior by torch.distributions, in float64."""
    prior, weights = vae.spec.prior, vae._model.weights
    assert prior is not None
    if isinstance(prior, VampPrior):
        posterior = vae.encode(weights[f"{prior.name}.pseudo_inputs"])
        means, logvars = posterior.mean.double().flatten(1), posterior.logvar.double().flatten(1)
    else:
        means, logvars = (weights[f"{prior.name}.{name}"].double().flatten(1) for name in ("means", "logvars"))
    given = weights.get(f"{prior.name}.weights", torch.zeros(prior.components)).double()
    chosen = Categorical(probs=given) if prior.weights == "probabilities" else Categorical(logits=given)
    return MixtureSameFamily(chosen, Independent(Normal(means, (0.5 * logvars).exp()), 1))


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("spec", [mlp_spec(), conv_spec()], ids=["mlp", "conv"])
def test_densities_are_those_of_torch(name: str, spec: ModelSpec) -> None:
    vae = with_prior(name, spec, precision="float64")
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 70, *spec.latent_shape))) * 3
    expected = distribution(vae).log_prob(z.flatten(2))
    prior = vae._engine.draws.prior
    assert isinstance(prior, Mixture)
    torch.testing.assert_close(prior.log_density(z.flatten(2)), expected, rtol=1e-12, atol=1e-12)
    mean, logvar = torch.randn(70, *spec.latent_shape).double(), torch.randn(70, *spec.latent_shape).double()
    own = Independent(Normal(mean.flatten(1), (0.5 * logvar).exp().flatten(1)), 1).log_prob(z.flatten(2))
    torch.testing.assert_close(prior.log_ratio(z, mean, logvar), expected - own, rtol=1e-11, atol=1e-11)


def test_many_components_are_taken_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = model_of(mlp_spec(), prior=GaussianMixture(200))
    vae = VAE(mixture, Settings(precision="float64"))
    z = torch.randn(2, 30, 3, dtype=torch.float64)
    whole = vae._engine.draws.prior.log_ratio(z, z[0], z[1])
    torch.testing.assert_close(
        whole, distribution(vae).log_prob(z) - Independent(Normal(z[0], (0.5 * z[1]).exp()), 1).log_prob(z)
    )
    monkeypatch.setattr("fastvae.priors.AT_ONCE", 700)
    assert torch.equal(vae._engine.draws.prior.log_ratio(z, z[0], z[1]), whole)


def test_one_standard_normal_component_is_the_standard_normal() -> None:
    spec = mlp_spec()
    plain = random_model(spec)
    one = replace(spec, prior=GaussianMixture(1, weights="uniform"))
    zeros = {name: torch.zeros(1, 3) for name in ("prior.means", "prior.logvars")}
    mixed, x = Model(one, {**plain.weights, **zeros}), data_for(spec, 9)
    for settings in (Settings(precision="float64"), Settings(batch_invariant=True), Settings()):
        first, second = VAE(plain, settings), VAE(mixed, settings)
        np.testing.assert_array_equal(
            second.generate(40, 3, 2**33, output="sample"), first.generate(40, 3, 2**33, output="sample")
        ) if settings.batch_invariant else np.testing.assert_allclose(
            second.generate(40, 3), first.generate(40, 3), rtol=0, atol=1e-6
        )
    first, second = (VAE(model, Settings(precision="float64")) for model in (plain, mixed))
    for metric in ("iwae", "mse", "reconstruction"):
        np.testing.assert_allclose(second.score(x, metric, 7), first.score(x, metric, 7), rtol=1e-13)  # type: ignore[arg-type]
    x[:, 2] = np.nan
    for method in ("importance", "metropolis", "gibbs"):
        found, expected = (vae.impute(x, None, method, samples=40) for vae in (second, first))  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_mixtures_of_the_linear_gaussian_model_have_its_evidence() -> None:
    """p(x) under a mixture is the mixture of linear-Gaussian evidences, with their means and variances moved."""
    model = linear_gaussian()
    plain = model.vae(shift=0.2, widen=1.5)
    means, variances, shares = np.array([[-1.0, 0.5], [1.0, -0.5]]), np.array([[0.5, 1.0], [1.2, 0.8]]), [0.3, 0.7]
    spec = replace(plain.spec, prior=GaussianMixture(2))
    tensors = {"weights": shares, "means": means, "logvars": np.log(variances)}
    weights = dict(plain._model.weights) | {f"prior.{k}": torch.tensor(np.array(v)) for k, v in tensors.items()}
    vae = VAE(Model(spec, weights))
    x = np.asarray(vae.generate(200, 1, output="sample"))
    parts = []
    for mean, variance in zip(means, variances, strict=True):
        covariance = model.W * variance @ model.W.T + model.s2 * np.eye(5)
        centred = x - model.b - model.W @ mean
        quadratic = (centred @ np.linalg.inv(covariance) * centred).sum(1)
        parts.append(-0.5 * (quadratic + np.linalg.slogdet(covariance)[1] + 5 * np.log(2 * np.pi)))
    exact = np.logaddexp(np.log(0.3) + parts[0], np.log(0.7) + parts[1])
    found = vae.log_likelihood(x, 2000)
    scores = (found.estimate - exact) / found.standard_error
    assert abs(scores.std() - 1) < 0.2
    assert abs(scores.mean()) < 0.3
    elbo = vae.log_likelihood(x, 500, bound="elbo")
    assert np.all(elbo.estimate < exact + 3 * elbo.standard_error)
    assert np.mean(exact - elbo.estimate) > 0.05


@pytest.mark.parametrize("name", ["gaussian_mixture", "vamp_prior"])
def test_draws_have_the_distribution_of_the_prior(name: str) -> None:
    vae = with_prior(name, precision="float64")
    z = vae._engine.draws.for_samples(20_000, seed=3, start=2**32 - 700)
    prior = distribution(vae)
    responsible = prior._component_distribution if hasattr(prior, "_component_distribution") else None
    assert responsible is not None
    means, shares = responsible.mean, prior.mixture_distribution.probs
    mixture = vae._engine.draws.prior
    assert isinstance(mixture, Mixture)
    noise = torch.zeros(20_000, 3, dtype=torch.float64)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(1))
    chosen = (mixture.draw(noise, uniform)[:, None] == means).all(2)
    assert chosen.sum(1).eq(1).all()
    assert chisquare(chosen.sum(0).numpy(), 20_000 * shares.numpy()).pvalue > 0.01
    for j in range(3):
        scales = responsible.stddev[:, j].numpy()

        def cdf(t: Any, j: int = j, scales: Any = scales) -> Any:
            return (shares.numpy() * norm.cdf(t[:, None], means[:, j].numpy(), scales)).sum(1)

        assert kstest(z[:, j].numpy(), cdf).pvalue > 0.01


@pytest.mark.parametrize("name", ["gaussian_mixture", "vamp_prior"])
def test_samples_and_scores_belong_to_rows(name: str) -> None:
    whole = with_prior(name, batch_invariant=True)
    pieces = with_prior(name, batch_invariant=True, batch_size=7)
    samples = whole.generate(50, seed=7, start=2**33, output="sample")
    np.testing.assert_array_equal(pieces.generate(9, seed=7, start=2**33 + 30, output="sample"), samples[30:39])
    streamed = list(pieces.stream(50, seed=7, start=2**33, output="sample", batch_size=11))
    np.testing.assert_array_equal(np.concatenate(streamed), samples)
    x = data_for(whole.spec, 20).astype(np.float32)
    for metric, draws in (("kl", 7), ("elbo", None), ("elbo", 5), ("iwae", 5)):
        expected = whole.score(x, metric, draws, 5, start=3)  # type: ignore[arg-type]
        found = pieces.score(x[12:], metric, draws, 5, start=15)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, expected[12:], err_msg=metric)


@pytest.mark.parametrize("name", PRIORS)
def test_divergences_are_estimated_and_never_the_standard_normal_s(name: str) -> None:
    vae = with_prior(name, precision="float64")
    x = data_for(vae.spec, 5)
    posterior = vae.encode(x)
    q = Independent(Normal(*(torch.from_numpy(v) for v in (posterior.mean, np.exp(posterior.logvar / 2)))), 1)
    z = torch.from_numpy(np.asarray(posterior.sample(0, 100)))
    expected = (q.log_prob(z) - distribution(vae).log_prob(z)).mean(0).numpy()
    np.testing.assert_allclose(vae.score(x, "kl"), expected, rtol=1e-10)
    np.testing.assert_allclose(posterior.kl(), expected, rtol=1e-10)
    np.testing.assert_allclose(vae.score(x, "elbo", beta=2.0), vae.score(x) + 2 * expected, rtol=1e-10)
    few = (q.log_prob(z[:4]) - distribution(vae).log_prob(z[:4])).mean(0).numpy()
    reconstruction = vae.score(x, "reconstruction", 4)
    np.testing.assert_allclose(vae.score(x, "elbo", 4), reconstruction + few, rtol=1e-10)
    plain = VAE(random_model(mlp_spec()), Settings(precision="float64"))
    assert np.abs(plain.score(x, "kl") - vae.score(x, "kl")).min() > 0.01


@pytest.mark.parametrize("impl", ["reference", "onnxruntime"])
def test_every_verb_runs(impl: str) -> None:
    vae = with_prior("vamp_prior", impl=impl)
    vae.warmup((3,), ("generate", "score", "impute"))
    x = data_for(vae.spec, 6).astype(np.float32)
    reference = with_prior("vamp_prior", precision="float64")
    for metric in ("kl", "elbo", "iwae", "mse"):
        found, expected = (model.score(x, metric, seed=1) for model in (vae, reference))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    x[:, 1] = np.nan
    for method in ("importance", "gibbs"):
        assert np.isfinite(vae.impute(x, None, method, samples=20)).all()  # type: ignore[arg-type]
    np.testing.assert_allclose(vae.generate(5), reference.generate(5), rtol=1e-4, atol=1e-5)
    assert vae.explain("decode").steps


def test_bulk_jobs_have_the_scores_of_the_model(tmp_path: Path) -> None:
    vae = with_prior("gaussian_mixture", batch_invariant=True)
    x = data_for(vae.spec, 30).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    fastvae.bulk.score(vae, tmp_path / "x.npy", tmp_path / "scores", metric=["kl", "elbo"], shard_size=20, workers=1)
    table = pd.concat([pd.read_parquet(file) for file in sorted((tmp_path / "scores").glob("*.parquet"))])
    for metric in ("kl", "elbo"):
        np.testing.assert_array_equal(table[metric].to_numpy(), vae.score(x, metric))  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "samples"), [("importance", 500), ("metropolis", 100)])
def test_imputation_has_the_prior_of_the_model(method: Any, samples: int) -> None:
    """Under N(m, V) the linear-Gaussian model is another of the kind: W and b take up m and V."""
    model, mean, variance = linear_gaussian(), np.array([[1.0, -0.5]]), np.array([[0.5, 0.3]])
    moved = LinearGaussian(model.W * np.sqrt(variance), model.b + model.W @ mean[0], model.s2)
    plain = model.vae(widen=1.3)
    spec = replace(plain.spec, prior=GaussianMixture(1, weights="uniform"))
    tensors = {"prior.means": torch.from_numpy(mean), "prior.logvars": torch.from_numpy(np.log(variance))}
    vae = VAE(Model(spec, {**plain._model.weights, **tensors}))
    # The same row again and again: the mean of as many estimates.
    x, missing = np.repeat(model.b[None] + 0.5, 100, 0), np.zeros((100, 5), bool)
    missing[:, :3] = True
    expected = moved.conditional_mean(x[:1], missing[:1])[0]
    assert np.abs(expected - model.conditional_mean(x[:1], missing[:1])[0]).max() > 0.2
    found = vae.impute(x, missing, method, samples=samples)
    error = found.std(0, ddof=1)[:3] / 10
    assert np.all(np.abs(found.mean(0) - expected)[:3] < 5 * error + 0.01)
    assert np.all(error < 0.03)


def test_pseudo_inputs_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, seen = with_prior("vamp_prior", batch_size=3), []
    run = vae._engine.runner.run

    def watched(verb: str, rows: int, *given: Any, **more: Any) -> Any:
        if verb == "encode":
            seen.append(rows)
        return run(verb, rows, *given, **more)

    monkeypatch.setattr(vae._engine.runner, "run", watched)
    vae.generate(4)
    assert seen == [3, 2]
    vae.generate(9, 1)
    vae.score(data_for(vae.spec, 3), "kl")
    assert seen == [3, 2, 3]


def test_gibbs_keeps_to_the_nearest_component() -> None:
    mixture = Mixture(torch.zeros(2), torch.tensor([[0.0, 0.0], [100.0, 0.0]]).double(), torch.zeros(2, 2).double())
    z = torch.tensor([[0.0, 1.0], [99.0, 1.0], [1e6, 0.0], [0.0, -1e30]])
    kept = mixture.within(z)
    longest = float(StandardNormal().within(torch.tensor([[0.0, 1e9]])).norm())
    expected = torch.tensor([[0.0, 1.0], [99.0, 1.0], [100 + longest, 0.0], [0.0, -longest]])
    torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_files_keep_priors_and_fingerprints_tell_them_apart(name: str, tmp_path: Path) -> None:
    vae = with_prior(name)
    vae.save(tmp_path / "m.safetensors")
    again = fastvae.load(tmp_path / "m.safetensors")
    assert again.spec == vae.spec == spec_from_json(spec_to_json(vae.spec))
    assert again.fingerprint == vae.fingerprint
    np.testing.assert_array_equal(again.generate(3), vae.generate(3))
    moved = {k: v + 0.5 if k.endswith(("means", "inputs")) else v for k, v in vae._model.weights.items()}
    assert fingerprint(Model(vae.spec, moved)) != vae.fingerprint
    torch.save(dict(vae._model.weights), tmp_path / "m.pt")
    (tmp_path / "spec.json").write_text(spec_to_json(vae.spec))
    assert fastvae.load(tmp_path / "m.pt", spec=tmp_path / "spec.json").fingerprint == vae.fingerprint


def test_models_without_a_prior_keep_their_files_and_fingerprints() -> None:
    document = json.loads(spec_to_json(mlp_spec()))
    assert not {"prior", "sampler"} & document.keys()
    assert fastvae.load("digits").fingerprint == DIGITS


DIGITS = "45824e48fe84f32b95123ecbfc8d79677232be43fb7c5c67feb59e7832388375"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prior": VampPrior(3), "condition": Condition(3)}, "encoder without condition"),
        ({"prior": VampPrior(3), "posterior": PointHead((Linear("q", 8, 3),))}, "encoder with variances"),
        ({"prior": GaussianMixture(2, covariance="full")}, "covariance must be 'diagonal'"),
        ({"prior": GaussianMixture(2), "sampler": GaussianMixture(2)}, "'prior.weights' is used twice"),
    ],
)
def test_specs_that_are_refused(fields: dict[str, Any], message: str) -> None:
    spec = mlp_spec(condition=fields["condition"]) if "condition" in fields else mlp_spec()
    with pytest.raises(WeightFormatError, match=message):
        replace(spec, **fields)


def test_components_must_be_positive() -> None:
    with pytest.raises(WeightFormatError, match="components must be positive"):
        GaussianMixture(0)
    with pytest.raises(WeightFormatError, match="components must be positive"):
        VampPrior(-1)
    with pytest.raises(WeightFormatError, match="for flat latents"):
        GaussianMixture(2, covariance="full").tensors((2, 4, 4), (3, 8, 8))


@pytest.mark.parametrize(
    ("prior", "tensor", "values", "message"),
    [
        (GaussianMixture(2), "weights", [0.5, 0.6], "add up to 1"),
        (GaussianMixture(2), "weights", [-0.5, 1.5], "add up to 1"),
        (GaussianMixture(2, "sampler", "uniform", "full"), "factors", np.zeros((2, 3, 3)), "positive diagonal"),
    ],
)
def test_numbers_that_are_no_mixture(prior: GaussianMixture, tensor: str, values: Any, message: str) -> None:
    model = model_of(mlp_spec(), **{prior.name: prior})
    weights = dict(model.weights) | {f"{prior.name}.{tensor}": torch.tensor(values, dtype=torch.float32)}
    with pytest.raises(WeightMismatchError, match=message):
        check_model(Model(model.spec, weights), source="m")
