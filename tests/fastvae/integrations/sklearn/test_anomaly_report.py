from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from fastvae.integrations.sklearn import anomaly_report


def scores_of(normal: int, anomalous: int, seed: int, *, shift: float = 1.0, digits: int = 9) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [normal, anomalous])
    return labels, np.round(rng.standard_normal(len(labels)) + shift * labels, digits)


@pytest.mark.parametrize("digits", [9, 0])  # with 0 there are many equal scores
def test_values_are_scikit_learns(digits: int) -> None:
    labels, scores = scores_of(70, 30, 0, digits=digits)
    report = anomaly_report(labels, scores, resamples=1)
    assert report.auroc.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert report.average_precision.value == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert (report.normal, report.anomalous) == (70, 30)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    truth = 0.7602  # Phi(1 / sqrt 2)
    reports = [anomaly_report(*scores_of(60, 40, seed), confidence=0.8, resamples=100) for seed in range(60)]
    covered = np.mean([report.auroc.low <= truth <= report.auroc.high for report in reports])
    assert 0.7 < covered < 0.9


def test_a_bootstrap_sample_is_one_of_rows() -> None:
    labels, scores = scores_of(50, 20, 1, digits=1)
    report = anomaly_report(labels, scores, resamples=1000, confidence=0.9)
    rng = np.random.default_rng(3)
    drawn = []
    for _ in range(150):
        rows = np.concatenate([rng.integers(50, size=50), 50 + rng.integers(20, size=20)])
        drawn.append((roc_auc_score(labels[rows], scores[rows]), average_precision_score(labels[rows], scores[rows])))
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    found = [(e.low, e.high) for e in (report.auroc, report.average_precision)]
    np.testing.assert_allclose(found, np.stack([low, high], 1), atol=0.04)


def test_the_same_seed_gives_the_same_intervals_and_rows_may_come_in_any_order() -> None:
    labels, scores = scores_of(40, 10, 2)
    first = anomaly_report(labels, scores, resamples=50)
    assert first == anomaly_report(labels.astype(bool), scores, resamples=50)
    assert first != anomaly_report(labels, scores, resamples=50, seed=1)
    order = np.random.default_rng(0).permutation(50)
    assert anomaly_report(labels[order], scores[order], resamples=50) == first


def test_it_prints_as_a_table() -> None:
    text = str(anomaly_report([0, 0, 1], [0.0, 1.0, 2.0], resamples=10))
    assert text.splitlines() == [
        "                    value     95 % interval",
        "AUROC               1.000    1.000 to 1.000",
        "average precision   1.000    1.000 to 1.000",
        "2 normal and 1 anomalous rows, bootstrap of 10",
    ]


@pytest.mark.parametrize(
    ("labels", "scores", "options", "message"),
    [
        ([0, 1], [1.0, 2.0, 3.0], {}, r"shapes \(2,\) and \(3,\)"),
        ([[0, 1]], [[1.0, 2.0]], {}, "in one axis"),
        ([-1, 1], [1.0, 2.0], {}, "expected 0 for normal and 1"),
        ([0, 0], [1.0, 2.0], {}, "0 anomalous of 2"),
        ([1, 1], [1.0, 2.0], {}, "2 anomalous of 2"),
        ([0, 1], [1.0, float("nan")], {}, "row 1 is NaN"),
        ([0, 1], [1.0, 2.0], {"confidence": 1.0}, "confidence in"),
        ([0, 1], [1.0, 2.0], {"resamples": 0}, "resamples >= 1"),
    ],
    ids=str,
)
def test_what_cannot_be_ranked_is_refused(labels: Any, scores: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        anomaly_report(labels, scores, **options)
