"""Disentanglement metrics on latents whose scores are known."""

import sys
from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import balanced_accuracy_score, mutual_info_score
from sklearn.svm import LinearSVC

from fastvae.errors import InputError, UnsupportedError
from fastvae.representation import dci, mig, sap

# Every pair of a binary and a four-valued factor, in an order that puts all of them on both sides of a split.
A, B = np.tile(np.mgrid[:2, :4].reshape(2, 8), 12)
FACTORS = np.stack([A, B], 1)
PERFECT = np.stack([A, B, np.zeros(96)], 1).astype(np.float32)
C, D = A, B % 2
ROTATED = np.stack([C + D, C - D], 1).astype(np.float64)


def test_mig_of_perfect_latents_is_one() -> None:
    found = mig(PERFECT, FACTORS)
    assert found.score == pytest.approx(1)
    np.testing.assert_allclose(found.matrix, [[1, 0], [0, 1], [0, 0]], atol=1e-12)
    assert mig(PERFECT[:, ::-1] * [-3, 5, 1] + 7, FACTORS).score == pytest.approx(1)


def test_mig_of_a_duplicated_dimension_has_no_gap() -> None:
    found = mig(np.concatenate([PERFECT, PERFECT[:, :1]], 1), FACTORS)
    np.testing.assert_allclose(found.gaps, [0, 1], atol=1e-12)
    assert found.score == pytest.approx(0.5)


def test_mig_of_rotated_factors_is_zero() -> None:
    found = mig(ROTATED, np.stack([C, D], 1))
    np.testing.assert_allclose(found.matrix, 0.5, atol=1e-12)  # the sum leaves half of its cases open
    assert found.score == pytest.approx(0)


def test_mig_cuts_latents_and_continuous_factors_into_bins() -> None:
    u = np.random.default_rng(0).random((4000, 2))
    for bins, expected in ((2, 1.0), (20, 1.0)):
        assert mig(u, u, bins=bins).score == pytest.approx(expected, abs=0.05)
    four = np.floor(u * 4).astype(int)  # two bins know half of four classes
    assert mig(u, four, bins=2).score == pytest.approx(0.5, abs=0.01)


def test_mig_counts_as_scikit_learn_does() -> None:
    generator = np.random.default_rng(0)
    v = generator.integers(0, 3, (200, 2))
    z = generator.standard_normal((200, 3)) + v[:, :1]
    found = mig(z, v, bins=7)
    for j, column in enumerate(z.T):
        code = np.minimum((column - column.min()) / (np.ptp(column) / 7), 6).astype(int)
        for k, known in enumerate(v.T):
            expected = mutual_info_score(code, known) / entropy(np.bincount(known))
            assert found.matrix[j, k] == pytest.approx(expected)


def test_sap_of_classes_is_accuracy_above_chance() -> None:
    found = sap(PERFECT, FACTORS)
    np.testing.assert_allclose(found.matrix[[0, 1], [0, 1]], 1)
    np.testing.assert_allclose(found.matrix[2], [1 / 2, 1 / 4])
    np.testing.assert_allclose(found.gaps, [1 / 2, 3 / 4], atol=0.05)
    assert sap(ROTATED, np.stack([C, D], 1)).score == pytest.approx(0, abs=0.05)


def test_sap_by_a_linear_svm() -> None:
    """Fitted as Locatello et al. do, on each dimension by itself; with two classes it is a threshold."""
    generator = np.random.default_rng(0)
    known = generator.integers(0, 2, (300, 2))
    z = generator.standard_normal((300, 3))
    z[:, :2] += 2 * known
    found = sap(z, known, classifier="linear_svm")
    held_out = np.arange(300) % 3 == 2
    for j, column in enumerate(z.T):
        for k, factor in enumerate(known.T):
            machine = LinearSVC(C=0.01, class_weight="balanced", random_state=0)
            guess = machine.fit(column[~held_out, None], factor[~held_out]).predict(column[held_out, None])
            assert found.matrix[j, k] == pytest.approx(balanced_accuracy_score(factor[held_out], guess))
    np.testing.assert_allclose(found.gaps, sap(z, known).gaps, atol=0.1)
    assert found.score > 0.25
    four = sap(PERFECT, FACTORS, classifier="linear_svm")
    np.testing.assert_allclose(four.matrix[[0, 1], [0, 1]], [1, 0.5], atol=0.01)  # the outer two of four in a row
    with pytest.raises(InputError, match="classifier: expected 'thresholds' or 'linear_svm', got 'svm'"):
        sap(PERFECT, FACTORS, classifier="svm")  # type: ignore[arg-type]


def test_sap_of_continuous_factors_is_r_squared() -> None:
    u = np.random.default_rng(0).standard_normal((500, 2))
    u -= u.mean(0)
    u[:, 1] -= u[:, 0] * (u[:, 0] @ u[:, 1]) / (u[:, 0] @ u[:, 0])  # uncorrelated to the last digit
    u /= u.std(0)
    assert sap(u * [2, -3], u).score == pytest.approx(1)
    mixed = np.stack([0.8 * u[:, 0] + 0.6 * u[:, 1], -0.6 * u[:, 0] + 0.8 * u[:, 1]], 1)
    np.testing.assert_allclose(sap(mixed, u).gaps, 0.64 - 0.36)
    assert sap(np.stack([u[:, 0], u[:, 0], u[:, 1]], 1), u).score == pytest.approx(0.5)


def test_dci() -> None:
    perfect = dci(PERFECT, FACTORS, trees=10)
    assert perfect.disentanglement == pytest.approx(1)
    assert perfect.completeness == pytest.approx(1)
    assert perfect.informativeness == pytest.approx(1)
    doubled = dci(np.concatenate([PERFECT, PERFECT[:, :1]], 1), FACTORS, trees=50)
    assert doubled.disentanglement == pytest.approx(1)
    assert doubled.completeness == pytest.approx(1 - np.log(2) / np.log(4) / 2, abs=0.05)  # one factor in two of four
    rotated = dci(ROTATED, np.stack([C, D], 1), trees=20)
    assert rotated.disentanglement < 0.1
    assert rotated.informativeness == pytest.approx(1)
    u = np.random.default_rng(0).random((200, 2))
    assert dci(u, u, trees=10).disentanglement > 0.9
    assert dci(np.zeros((30, 2)), np.arange(30) % 2, trees=2).disentanglement == 0


@pytest.mark.parametrize("metric", [mig, sap, dci])
@pytest.mark.parametrize(
    ("latents", "factors", "message"),
    [
        (PERFECT[:, :1], FACTORS, "latents: expected at least 2 dimensions"),
        (PERFECT[:4], FACTORS[:4], "latents: expected at least 6 rows, got 4"),
        (PERFECT.tolist(), FACTORS, "latents: expected a NumPy array of floats"),
        (PERFECT, FACTORS[1:], r"factors: expected shape \(96, factors\)"),
        (PERFECT, FACTORS.astype(str), "factors: expected a NumPy array of numbers"),
        (PERFECT, np.zeros((96, 0)), "factors: expected shape"),
        (PERFECT, FACTORS * np.array([1, 0]), "factors: factor 1 has one value in all rows"),
        (PERFECT, FACTORS / np.array([1, np.nan]), "factors: hold NaN or Inf"),
    ],
)
def test_mistakes(metric: Any, latents: Any, factors: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metric(latents, factors)


def test_settings_out_of_range() -> None:
    with pytest.raises(InputError, match="bins: expected an integer from 2"):
        mig(PERFECT, FACTORS, bins=1)
    with pytest.raises(InputError, match="trees: expected an integer from 1"):
        dci(PERFECT, FACTORS, trees=0)


def test_without_scikit_learn_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sklearn.tree", "sklearn.ensemble"):
        monkeypatch.setitem(sys.modules, name, None)
    for metric in (sap, dci):
        with pytest.raises(
            UnsupportedError, match=r'need the package scikit-learn: pip install "fastvae-engine\[sklearn'
        ):
            metric(PERFECT, FACTORS)
    assert mig(PERFECT, FACTORS).score == pytest.approx(1)
