"""Estimators for scikit-learn: a VAE trained on the rows that ``fit`` gets, or one that is trained already."""

from fastvae.integrations.sklearn import _available  # noqa: F401
from fastvae.integrations.sklearn._base import VAEEstimator
from fastvae.integrations.sklearn.imputer import VAEImputer
from fastvae.integrations.sklearn.outlier import PyODDetector, VAEOutlierDetector
from fastvae.integrations.sklearn.report import AnomalyReport, Estimate, anomaly_report
from fastvae.integrations.sklearn.transformer import VAETransformer

__all__ = [
    "AnomalyReport",
    "Estimate",
    "PyODDetector",
    "VAEEstimator",
    "VAEImputer",
    "VAEOutlierDetector",
    "VAETransformer",
    "anomaly_report",
]
