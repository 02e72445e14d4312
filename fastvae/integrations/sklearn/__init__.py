"""Estimators for scikit-learn: a VAE trained on the rows that ``fit`` gets, or one that is trained already."""

from fastvae.integrations.sklearn._base import VAEEstimator
from fastvae.integrations.sklearn.transformer import VAETransformer

__all__ = ["VAEEstimator", "VAETransformer"]
