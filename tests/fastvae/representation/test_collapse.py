"""The report on collapse, on posteriors whose numbers are known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

import fastvae
from fastvae import LatentScaling
from fastvae.errors import InputError, UnsupportedError
from fastvae.layers import Linear
from fastvae.representation import active_units, diagnose, diagnose_posterior
from fastvae.spec import ModelSpec, PerDimensionGaussian, PointHead
from tests.fastvae.support import vae
from tests.fastvae.test_sizes import SPEC

ROWS = 1000
VARIANCES = np.array([1.0, 0.1, 0.5])  # a dimension that is the prior, one that knows much, one that knows little


def posterior() -> tuple[np.ndarray, np.ndarray]:
    """Means at the quantiles of N(0, 1 - v), in an order of their own a dimension; the aggregate is N(0, 1)."""
    generator = np.random.default_rng(0)
    quantiles = norm.ppf((np.arange(ROWS) + 0.5) / ROWS)
    mean = np.stack([generator.permutation(quantiles) * np.sqrt(1 - v) for v in VARIANCES], 1)
    return mean, np.broadcast_to(np.log(VARIANCES), mean.shape).copy()


def test_numbers_of_known_posteriors() -> None:
    found = diagnose_posterior(*posterior(), mi_rows=ROWS)
    np.testing.assert_allclose(found.variance_of_means, 1 - VARIANCES, atol=0.01)
    np.testing.assert_allclose(found.mean_variance, VARIANCES)
    np.testing.assert_allclose(found.kl, -0.5 * np.log(VARIANCES), atol=0.005)
    np.testing.assert_allclose(found.mutual_information, -0.5 * np.log(VARIANCES), atol=0.06)
    assert found.active.tolist() == [False, True, True]
    assert found.order.tolist() == [1, 2, 0]
    assert found.rate == pytest.approx(found.kl.sum())


def test_the_aggregate_that_misses_the_prior_takes_rate_without_information() -> None:
    mean, logvar = posterior()
    found = diagnose_posterior(mean * 0 + 2, logvar, mi_rows=200)
    assert (found.kl > 1.9).all()
    np.testing.assert_allclose(found.mutual_information, 0, atol=1e-12)
    assert not found.active.any()


def test_extreme_variances_stay_numbers() -> None:
    mean, logvar = posterior()
    logvar[:, 1] = -1000
    found = diagnose_posterior(mean, logvar, mi_rows=100)
    assert found.mutual_information[1] == pytest.approx(np.log(100))
    assert np.isfinite(found.kl).all()


def test_of_a_model_is_that_of_its_posterior() -> None:
    model = fastvae.load("digits")
    x = model.generate(300, seed=5)
    q = model.encode(x)
    found, expected = diagnose(model, x, seed=3), diagnose_posterior(q.mean, q.logvar, seed=3)
    np.testing.assert_array_equal(found.mutual_information, expected.mutual_information)
    assert found.rate == pytest.approx(q.kl().mean(), rel=1e-5)
    assert found.active.tolist() == active_units(q.mean).tolist()
    assert 1 <= found.active.sum() < 16  # the embedded model leaves some dimensions unused
    assert diagnose(model, x, seed=3, mi_rows=0).mi_rows == 0


def test_scaled_latents_are_judged_as_the_models_own() -> None:
    spec = replace(SPEC, latent_scaling=LatentScaling(0.25, 0.5))
    x = np.random.default_rng(0).random((4, *spec.input_shape), np.float32)
    scaled, own = vae(spec, scaled_latents=True), vae(spec)
    np.testing.assert_allclose(diagnose(scaled, x, mi_rows=0).kl, diagnose(own, x, mi_rows=0).kl, rtol=1e-3, atol=1e-5)


def test_the_table() -> None:
    text = str(diagnose_posterior(*posterior(), mi_rows=0))
    assert text.splitlines()[0] == "dim  KL  variance of means  mean variance  I(x; z)  state"
    assert text.splitlines()[1].split() == ["1", "1.151", "0.899", "0.100", "nan", "active"]
    assert text.splitlines()[3].split()[-1] == "collapsed"
    assert text.splitlines()[-1] == "2 of 3 dimensions active, rate 1.497 nats a row, 1,000 rows"
    wide = diagnose_posterior(np.random.default_rng(0).standard_normal((3, 4, 10)), np.zeros((3, 4, 10)), mi_rows=0)
    assert "and 8 dimensions of lower KL" in str(wide)


def test_as_a_dictionary() -> None:
    found = diagnose_posterior(*posterior(), mi_rows=0).as_dict()
    assert found["active_units"] == 2
    assert found["dimensions"][0]["dim"] == 1
    assert found["dimensions"][0]["mutual_information"] is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, v: diagnose_posterior(m[:1], v[:1]), "mean: expected at least 2 rows, got 1"),
        (lambda m, v: diagnose_posterior(m, v[:, :1]), "logvar: expected the shape of mean"),
        (lambda m, v: diagnose_posterior(m, v - np.inf), "logvar: row 0 holds NaN or Inf"),
        (lambda m, v: diagnose_posterior(m, v, mi_rows=-1), "mi_rows: expected an integer from 0"),
        (lambda m, v: diagnose_posterior(m, v, threshold=-1), "threshold: expected a number of at least 0"),
        (lambda m, v: diagnose_posterior(m, v, seed=-1), "seed"),
        (lambda m, v: active_units(m[0]), "means: expected a NumPy array of floats"),
        (lambda m, v: diagnose(fastvae.load("digits"), [[0.0]]), "x: expected a NumPy array, got list"),
    ],
)
def test_mistakes(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(*posterior())


def test_a_deterministic_encoder_is_refused() -> None:
    spec = ModelSpec((4,), (2,), (), PointHead((Linear("m", 4, 2),)), (Linear("d", 2, 4),), PerDimensionGaussian())
    with pytest.raises(UnsupportedError, match="deterministic"):
        diagnose(vae(spec), np.zeros((3, 4)))
