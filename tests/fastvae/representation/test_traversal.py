"""Traversals and arithmetic: one dimension moves, by as much as it should."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from fastvae.errors import InputError, UnsupportedError
from fastvae.layers import Linear
from fastvae.representation import along, attribute_vector, traverse
from fastvae.spec import Condition, ModelSpec, PerDimensionGaussian, PointHead
from tests.fastvae.support import mlp_spec, vae

MODEL = vae(mlp_spec(), precision="float64")
X = np.random.default_rng(0).standard_normal((2, 6))


def test_from_the_prior_mean_each_dimension_takes_the_scores() -> None:
    found = traverse(MODEL, steps=5, low=-2, high=2)
    assert found.shape == (1, 3, 5, 6)
    for dim in range(3):
        z = np.zeros((5, 3))
        z[:, dim] = [-2, -1, 0, 1, 2]
        np.testing.assert_allclose(found[0, dim], MODEL.decode(z), rtol=0, atol=1e-12)


def test_from_rows_by_their_posterior() -> None:
    q = MODEL.encode(X)
    found = traverse(MODEL, X, [2, 0], 3, low=-1, high=2, unit="posterior")
    assert found.shape == (2, 2, 3, 6)
    for place, dim in enumerate((2, 0)):
        for step, score in enumerate((-1, 0.5, 2)):
            z = q.mean.copy()
            z[:, dim] += np.exp(q.logvar[:, dim] / 2) * score
            np.testing.assert_allclose(found[:, place, step], MODEL.decode(z), rtol=0, atol=1e-12)


def test_from_latents_equals_from_their_rows() -> None:
    z = MODEL.embed(X)
    np.testing.assert_allclose(traverse(MODEL, z, space="latent"), traverse(MODEL, X), rtol=0, atol=1e-6)


def test_quantiles_are_evenly_probable() -> None:
    found = traverse(MODEL, dims=[1], steps=4, low=-1, high=2, spacing="quantile")
    z = np.zeros((4, 3))
    z[:, 1] = norm.ppf(np.linspace(norm.cdf(-1), norm.cdf(2), 4))
    np.testing.assert_allclose(found[0, 0], MODEL.decode(z), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("condition", "each"),
    [
        (np.array([0, 1]), [0, 1]),
        (np.eye(2), [np.array([1.0, 0.0]), np.array([0.0, 1.0])]),
        (1, [1, 1]),
        (np.array([0.5, 0.5]), [np.array([0.5, 0.5])] * 2),
    ],
)
def test_conditions_go_with_their_rows(condition: Any, each: list[Any]) -> None:
    model = vae(mlp_spec(condition=Condition(2)), precision="float64")
    found = traverse(model, X, [1], 3, condition=condition)
    for row in range(2):
        alone = traverse(model, X[[row]], [1], 3, condition=each[row])
        np.testing.assert_allclose(found[row], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 1}, "steps: expected an integer from 2"),
        ({"low": 1.0, "high": 1.0}, "low, high: expected ascending numbers, got 1.0 and 1.0"),
        ({"low": float("nan")}, "low: expected a finite number"),
        ({"dims": [3]}, "dims: expected an integer from 0 to 2, got 3"),
        ({"dims": []}, "dims: expected latent dimensions from 0 to 2"),
        ({"unit": "std"}, "unit: expected 'prior' or 'posterior'"),
        ({"unit": "posterior"}, "unit: 'posterior' needs rows of data"),
        ({"spacing": "even"}, "spacing: expected 'linear' or 'quantile'"),
        ({"space": "pixel"}, "space: expected 'input' or 'latent'"),
        ({"rows": [[0.0]]}, "rows: expected a NumPy array, got list"),
        ({"rows": np.full((1, 3), np.nan), "space": "latent"}, "rows: row 0 holds NaN or Inf"),
    ],
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        traverse(MODEL, **arguments)


def test_a_deterministic_encoder_has_no_posterior_to_walk() -> None:
    spec = ModelSpec((4,), (2,), (), PointHead((Linear("m", 4, 2),)), (Linear("d", 2, 4),), PerDimensionGaussian())
    with pytest.raises(UnsupportedError, match="deterministic"):
        traverse(vae(spec), np.zeros((1, 4)), unit="posterior")


def test_an_attribute_is_the_difference_of_means() -> None:
    z = np.random.default_rng(0).standard_normal((6, 2, 3))
    vector = attribute_vector(z[:4], z[4:])
    np.testing.assert_allclose(vector, z[:4].mean(0) - z[4:].mean(0), atol=1e-6)
    moved = along(z, vector, [0, -1, 2.5])
    assert moved.shape == (6, 3, 2, 3)
    for place, strength in enumerate((0, -1, 2.5)):
        np.testing.assert_allclose(moved[:, place], z + strength * vector, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: attribute_vector(z, z[:0]), "z_without: expected at least 1 row, got 0"),
        (lambda z: attribute_vector(z, z[:, :1]), r"z_without: expected rows of shape \(3,\) as z_with, got \(1,\)"),
        (lambda z: attribute_vector(z.astype(int), z), "z_with: expected a NumPy array of floats"),
        (lambda z: along(z, z[0, :2]), r"vector: expected the shape of a latent, \(3,\), got \(2,\)"),
        (lambda z: along(z, z[0], [np.inf]), "strengths: expected a finite number, got inf"),
    ],
)
def test_mistakes_in_arithmetic(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(np.zeros((2, 3)))
