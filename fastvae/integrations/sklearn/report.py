"""How well scores tell anomalies from normal rows: ``anomaly_report``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Estimate:
    """A number and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class AnomalyReport:
    """Two measures of ranking with bootstrap confidence intervals; ``print`` it for a table.

    Attributes:
        auroc: the probability that an anomaly scores above a normal row, ties counting half.
        average_precision: the mean of the precision over the anomalies, from the top of the ranking; with scores that
            say nothing it is the share of anomalies.
        normal, anomalous: numbers of rows.
        confidence: of the intervals, in (0, 1).
        resamples: bootstrap samples they are quantiles of.
    """

    auroc: Estimate
    average_precision: Estimate
    normal: int
    anomalous: int
    confidence: float
    resamples: int

    def __str__(self) -> str:
        level = f"{100 * self.confidence:g} %"
        lines = [f"{'':18} {'value':>6}  {level + ' interval':>16}"]
        for name, found in (("AUROC", self.auroc), ("average precision", self.average_precision)):
            lines.append(f"{name:18} {found.value:6.3f}  {f'{found.low:.3f} to {found.high:.3f}':>16}")
        lines.append(f"{self.normal:,} normal and {self.anomalous:,} anomalous rows, bootstrap of {self.resamples:,}")
        return "\n".join(lines)


def anomaly_report(
    labels: ArrayLike, scores: ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> AnomalyReport:
    """AUROC and average precision of ``scores``, with confidence intervals.

    The intervals are quantiles over bootstrap samples of the rows, drawn within each class (percentile bootstrap,
    Efron & Tibshirani 1993): they hold for these numbers of rows and this model, not for training it again. Where
    every anomaly scores above every normal row, they have no width.

    Args:
        labels: (rows,) of 0 for normal and 1 for anomalous rows, or booleans.
        scores: (rows,), higher for more anomalous rows, as ``fastvae.VAE.score`` has them; of scikit-learn's
            ``score_samples`` take the negative.
        confidence: of the intervals, in (0, 1).
        resamples: bootstrap samples, at least 1.
        seed: of the bootstrap.

    Raises:
        ValueError: arguments of other shapes, labels or ranges; no normal or no anomalous row; NaN among the scores.
    """
    truth, ranked = _checked(labels, scores)
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"expected confidence in (0, 1) and resamples >= 1, got {confidence} and {resamples}")
    order = np.argsort(-ranked, kind="stable")
    truth, ranked = truth[order], ranked[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last row of each run of equal scores
    normal, anomalous = np.flatnonzero(~truth), np.flatnonzero(truth)
    value = _measures(truth, np.ones(len(truth)), ends)
    generator, drawn = np.random.default_rng(seed), np.empty((resamples, 2))
    for k in range(resamples):
        weights = np.zeros(len(truth))
        for rows in (normal, anomalous):
            weights[rows] = np.bincount(generator.integers(len(rows), size=len(rows)), minlength=len(rows))
        drawn[k] = _measures(truth, weights, ends)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    auroc, precision = (Estimate(*map(float, bounds)) for bounds in zip(value, low, high, strict=True))
    return AnomalyReport(auroc, precision, len(normal), len(anomalous), float(confidence), int(resamples))


def _measures(truth: NDArray[np.bool_], weights: NDArray[np.float64], ends: NDArray[Any]) -> tuple[float, float]:
    """AUROC and average precision of rows from the highest score down, each counted ``weights`` times."""
    hits = np.cumsum(weights * truth)[ends]
    alarms = np.cumsum(weights * ~truth)[ends]
    gained, lost = np.diff(hits, prepend=0.0), np.diff(alarms, prepend=0.0)
    above = hits - gained / 2  # anomalies above each run's normal rows
    auroc = float(lost @ above / (hits[-1] * alarms[-1]))
    precision = float(gained @ (hits / np.maximum(hits + alarms, 1)) / hits[-1])
    return auroc, precision


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    truth, ranked = np.asarray(labels), np.asarray(scores, np.float64)
    if truth.ndim != 1 or truth.shape != ranked.shape:
        raise ValueError(f"expected as many labels as scores, in one axis, got shapes {truth.shape} and {ranked.shape}")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("labels: expected 0 for normal and 1 for anomalous rows")
    truth = truth.astype(np.bool_)
    if not 0 < truth.sum() < len(truth):
        raise ValueError(f"labels: expected normal and anomalous rows, got {truth.sum()} anomalous of {len(truth)}")
    if np.isnan(ranked).any():
        raise ValueError(f"scores: row {int(np.flatnonzero(np.isnan(ranked))[0])} is NaN")
    return truth, ranked
