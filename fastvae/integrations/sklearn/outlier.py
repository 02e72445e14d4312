"""Rows that a model finds surprising: ``VAEOutlierDetector``, and the same under PyOD's names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from fastvae.api import VAE
from fastvae.integrations.sklearn._base import VAEEstimator
from fastvae.integrations.sklearn._contributions import contributions
from fastvae.scoring import metric_of


class VAEOutlierDetector(OutlierMixin, VAEEstimator):
    """Outliers by ``fastvae.VAE.score``, with scikit-learn's sign: the higher a score, the more normal the row.

    ``fit`` trains on rows that are normal, or mostly so, and puts the threshold among their scores. With ``model=`` it
    only puts the threshold. Training for long learns anomalies by heart: where the rows hold some, and are to be
    ranked themselves, take fewer ``epochs``, such as 25.

    Args:
        metric: of ``fastvae.VAE.score``: ``elbo``, ``reconstruction``, ``kl``, ``iwae``, ``mse`` or ``l2``.
        samples: draws of z for a score; None scores at the posterior mean. The noise of a row follows from its place
            in ``X``.
        contamination: share of the rows that ``fit`` gets to call outliers, in (0, 0.5]; ``auto`` takes ``quantile``.
        quantile: where ``contamination`` is ``auto``, the share to call inliers, in (0, 1), of the rows that were held
            out from training (of all that ``fit`` gets, if a model is given). For normal rows it is one minus the share
            of false alarms to live with. Rows that were trained on score lower than new ones, and say nothing of that.
        model, latent_dim, hidden, likelihood, beta, epochs, batch_size, learning_rate, validation_fraction,
            random_state: see :class:`fastvae.integrations.sklearn.VAEEstimator`.

    Attributes:
        offset_: ``decision_function`` is ``score_samples`` minus it.
        decision_scores_: scores of the rows that ``fit`` got, PyOD's way: the higher, the more anomalous.
        threshold_: above it a row is an outlier, in PyOD's sign; minus ``offset_``.
        labels_: 1 for each of those rows that is an outlier, else 0, as PyOD has them.

    >>> from sklearn.datasets import load_wine
    >>> from fastvae.integrations.sklearn import VAEOutlierDetector
    >>> VAEOutlierDetector(epochs=5, contamination=0.1, random_state=0).fit(load_wine().data).labels_.sum()
    np.int64(18)
    """

    def __init__(
        self,
        *,
        model: VAE | str | os.PathLike[str] | None = None,
        metric: str = "elbo",
        samples: int | None = None,
        contamination: float | str = "auto",
        quantile: float = 0.95,
        latent_dim: int | None = None,
        hidden: Sequence[int] = (64, 32),
        likelihood: str = "gaussian",
        beta: float = 1.0,
        epochs: int | None = None,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        validation_fraction: float = 0.2,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        super().__init__(
            model=model,
            latent_dim=latent_dim,
            hidden=hidden,
            likelihood=likelihood,
            beta=beta,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            validation_fraction=validation_fraction,
            random_state=random_state,
        )
        self.metric = metric
        self.samples = samples
        self.contamination = contamination
        self.quantile = quantile

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.samples is not None:
            check_scalar(self.samples, "samples", Integral, min_val=1)
        metric_of(self.metric, self.samples, seed=0, beta=1.0)
        if self.contamination != "auto":
            check_scalar(self.contamination, "contamination", Real, min_val=0, max_val=0.5, include_boundaries="right")
        check_scalar(self.quantile, "quantile", Real, min_val=0, max_val=1, include_boundaries="neither")

    def fit(self, X: Any, y: Any = None) -> VAEOutlierDetector:
        """Train on ``X`` (rows, features), or check that it fits the model given; then set the threshold.

        Raises:
            ValueError, TypeError: ``X`` or a parameter is none that fits.
        """
        X = self._checked(X, reset=True, ensure_min_samples=2)
        self._fit_model(X)
        self.decision_scores_ = self._surprise(X)
        if self.contamination == "auto":
            held_out = self._held_out(len(X))
            judged = self.decision_scores_[held_out] if held_out.any() else self.decision_scores_
            self.threshold_ = float(np.quantile(judged, self.quantile))
        else:
            self.threshold_ = float(np.quantile(self.decision_scores_, 1 - float(self.contamination)))
        self.offset_ = -self.threshold_
        self.labels_ = (self.decision_scores_ > self.threshold_).astype(int)
        return self

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Minus the metric's score of each row, (rows,): the higher, the more normal."""
        return -self._surprise(self._checked(X, reset=False))

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """``score_samples`` minus the threshold, (rows,): negative for outliers."""
        scores: NDArray[np.float64] = self.score_samples(X)
        return scores - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """-1 for outliers, 1 for inliers, (rows,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def contributions(self, X: Any) -> NDArray[np.float64]:
        """What each feature adds to the reconstruction error at the posterior mean, in nats, (rows, features).

        A row's sum is its score under the metric ``reconstruction``; ``elbo`` adds the KL divergence to that.

        Raises:
            ValueError: the model's likelihood does not factorise over features.
        """
        rows = self._checked(X, reset=False).astype(np.float32)
        return contributions(self.model_, rows)

    def _surprise(self, X: NDArray[Any]) -> NDArray[np.float64]:
        rows = X.astype(np.float32)
        scores = self.model_.score(rows, self.metric, samples=self.samples, seed=self.seed_)  # type: ignore[arg-type]
        return np.asarray(scores, np.float64)


class PyODDetector(BaseEstimator):
    """A :class:`VAEOutlierDetector` as PyOD calls things: scores rise with anomaly, outliers are 1 and inliers 0.

    Args:
        detector: what to fit a clone of; None is a VAEOutlierDetector with its defaults.
        contamination: share of outliers among the rows that ``fit`` gets, in (0, 0.5].

    Attributes:
        detector_: the fitted VAEOutlierDetector.
        decision_scores_, threshold_, labels_: as VAEOutlierDetector has them.
    """

    def __init__(self, detector: VAEOutlierDetector | None = None, contamination: float = 0.1) -> None:
        self.detector = detector
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None) -> PyODDetector:
        """Fit a clone of the detector to ``X`` (rows, features)."""
        detector = VAEOutlierDetector() if self.detector is None else clone(self.detector)
        self.detector_ = detector.set_params(contamination=self.contamination).fit(X)
        self.decision_scores_: NDArray[np.float64] = self.detector_.decision_scores_
        self.threshold_: float = self.detector_.threshold_
        self.labels_: NDArray[np.int64] = self.detector_.labels_
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """The metric's score of each row, (rows,): the higher, the more anomalous."""
        check_is_fitted(self, "detector_")
        scores: NDArray[np.float64] = self.detector_.score_samples(X)
        return -scores

    def predict(self, X: Any) -> NDArray[np.int64]:
        """1 for outliers, 0 for inliers, (rows,)."""
        return (self.decision_function(X) > self.threshold_).astype(int)
