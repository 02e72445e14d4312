"""Imputation of tables with categories and counts against exact conditional distributions, by quadrature over z."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fastvae.api import VAE
from fastvae.errors import InputError
from fastvae.heads import Categorical, FixedGaussian, Mixed, NegativeBinomial, PerDimension, Poisson, Predicted, Segment
from fastvae.layers import Linear
from fastvae.model import Model
from fastvae.runtime import Settings
from fastvae.spec import ModelSpec
from tests.fastvae.head_specs import log_density
from tests.fastvae.support import gaussian_head

TABLE = Mixed(
    (
        Segment(1, FixedGaussian(0.3)),
        Segment(3, Categorical()),
        Segment(1, Poisson()),
        Segment(1, Poisson(zero_inflation=Predicted())),
        Segment(2, Categorical()),
    )
)
OVERDISPERSED = replace(
    TABLE,
    segments=(
        *TABLE.segments[:3],
        Segment(1, NegativeBinomial(PerDimension("theta"), zero_inflation=Predicted())),
        TABLE.segments[4],
    ),
)
COLUMNS, FEATURES = 8, 9
CATEGORIES = (slice(1, 4), slice(6, 8))
# Each row of data, and which of its columns are missing.
ROWS = np.array(
    [
        [1.2, 0, 1, 0, 3, 2, 1, 0],
        [-0.9, 1, 0, 0, 0, 0, 0, 1],
        [0.1, 0, 0, 1, 2, 5, 1, 0],
        [0.4, 0, 0, 1, 1, 0, 0, 1],
        [0.0, 1, 0, 0, 0, 0, 1, 0],
    ]
)
GONE: tuple[tuple[int, ...], ...] = ((1, 2, 3), (0, 5), (1, 2, 3, 4, 6, 7), (4, 5), tuple(range(8)))
MISSING = np.array([[column in gone for column in range(COLUMNS)] for gone in GONE])
HOLES = np.where(MISSING, np.nan, ROWS)


def table(likelihood: Mixed) -> VAE:
    """One latent; every posterior is N(0, 1.5), so that importance sampling has all the work."""
    spec = ModelSpec(
        input_shape=(COLUMNS,),
        latent_shape=(1,),
        encoder=(Linear("e", COLUMNS, 1),),
        posterior=gaussian_head("q", 1, 1, "separate"),
        decoder=(Linear("d", 1, FEATURES),),
        likelihood=likelihood,
        dtype="float64",
    )
    weights = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in spec.tensors().items()}
    weights["q.scale_.bias"] += float(np.log(1.5))
    weights["d.weight"] += torch.tensor([1.0, -1.5, 0.5, 1.0, 0.8, 0.7, -0.5, 1.2, -1.2])[:, None]
    weights["d.bias"] += torch.tensor([0.1, 0.2, 0.4, -0.3, 0.5, 0.9, -1.0, 0.3, 0.0])
    if "theta" in weights:
        weights["theta"] += 0.7
    return VAE(Model(spec, weights), Settings())


MODEL = table(TABLE)


def exact(model: VAE) -> Any:
    """E[x | observed entries] of every row: (rows, columns)."""
    z = np.linspace(-8, 8, 4001)
    parameters = model._engine.parameters(torch.from_numpy(z[:, None]))
    parts = model._engine.head._split(parameters)
    means = model._engine.head.mean(parameters).numpy()
    likelihood = model.spec.likelihood
    assert isinstance(likelihood, Mixed)
    result = []
    for row, gone in zip(ROWS, MISSING, strict=True):
        logs = -0.5 * z**2
        for (head, given), (segment, (low, high), _) in zip(parts, likelihood.spans(), strict=True):
            if not gone[low]:
                p = {key: value.numpy() for key, value in head._named(given).items()}
                x = np.broadcast_to(row[low:high], (len(z), high - low))
                logs = logs + log_density(segment.likelihood.kind, p, x).reshape(len(z))
        weights = np.exp(logs - logs.max())
        result.append(weights @ means / weights.sum())
    return np.array(result)


EXACT = exact(MODEL)
NUMBERS = np.array([column not in (1, 2, 3, 6, 7) for column in range(COLUMNS)])


def check_single(model: VAE, expected: Any) -> None:
    """The mean of counts and real numbers; the category that is most probable, where one is clearly."""
    runs = np.stack([model.impute(HOLES, samples=200, seed=seed) for seed in range(4)])
    np.testing.assert_array_equal(runs[:, ~MISSING], np.broadcast_to(ROWS, runs.shape)[:, ~MISSING])
    numbers = MISSING & NUMBERS
    error = runs.std(0, ddof=1) / np.sqrt(len(runs))
    assert np.all(np.abs(runs.mean(0) - expected)[numbers] < 6 * error[numbers] + 0.02)
    checked = 0
    for columns in CATEGORIES:
        probable = np.eye(columns.stop - columns.start)[expected[:, columns].argmax(1)]
        second, first = np.sort(expected[:, columns], 1).T[-2:]
        clear = MISSING[:, columns.start] & (first - second > 0.1)
        np.testing.assert_array_equal(runs[:, clear, columns], np.stack([probable[clear]] * len(runs)))
        assert set(np.unique(runs[:, :, columns])) == {0.0, 1.0}
        checked += clear.sum()
    assert checked > 2


def test_a_single_imputation_is_the_mean_or_the_most_probable_category() -> None:
    check_single(MODEL, EXACT)


def test_overdispersed_counts_with_extra_zeros() -> None:
    model = table(OVERDISPERSED)
    check_single(model, exact(model))
    draws = model.impute(HOLES, n_imputations=8, samples=50)[:, :, 5]
    assert (draws == np.floor(draws)).all()
    assert draws.min() == 0


@pytest.mark.parametrize("method", ["metropolis", "gibbs"])
def test_chains_give_one_category(method: Any) -> None:
    filled = MODEL.impute(HOLES, method=method, samples=8)
    for columns in CATEGORIES:
        assert set(np.unique(filled[:, columns])) == {0.0, 1.0}
        assert (filled[:, columns].sum(1) == 1).all()


def test_several_imputations_are_draws() -> None:
    """Their means are within four standard errors of the exact ones, their categories one-hot, their counts whole."""
    many = 60
    draws = MODEL.impute(HOLES, n_imputations=many, samples=300, seed=1)
    np.testing.assert_array_equal(draws[:, ~MISSING], np.stack([ROWS] * many)[:, ~MISSING])
    for columns in CATEGORIES:
        assert set(np.unique(draws[:, :, columns])) == {0.0, 1.0}
        assert (draws[:, :, columns].sum(2) == 1).all()
    assert (draws[:, :, 4:6] == np.floor(draws[:, :, 4:6])).all()
    error = draws.std(0) / np.sqrt(many)
    assert np.all(np.abs(draws.mean(0) - EXACT)[MISSING] < 4 * error[MISSING] + 0.02)


def test_a_category_gone_in_part_is_refused() -> None:
    holes = ROWS.copy()
    holes[2, 2] = np.nan
    with pytest.raises(InputError, match=r"one-hot columns.*row 2"):
        MODEL.impute(holes)
