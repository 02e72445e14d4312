"""Latents of a VAE as features: ``VAETransformer``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from fastvae.integrations.sklearn._base import VAEEstimator


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, VAEEstimator):
    """Each row as the mean of its posterior q(z|x).

    Parameters: see :class:`fastvae.integrations.sklearn.VAEEstimator`.

    >>> from sklearn.datasets import load_wine
    >>> from fastvae.integrations.sklearn import VAETransformer
    >>> VAETransformer(latent_dim=2, epochs=5, random_state=0).fit_transform(load_wine().data).shape
    (178, 2)
    """

    def fit(self, X: Any, y: Any = None) -> VAETransformer:
        """Train on ``X`` (rows, features), or check that it fits the model given.

        Raises:
            ValueError, TypeError: ``X`` or a parameter is none that fits.
        """
        self._fit_model(self._checked(X, reset=True, ensure_min_samples=2))
        return self

    def transform(self, X: Any) -> NDArray[Any]:
        """Posterior means, (rows, latent dimensions), in the dtype of ``X``."""
        X = self._checked(X, reset=False)
        means = self.model_.embed(X.astype(np.float32))
        return np.asarray(means).reshape(len(X), -1).astype(X.dtype, copy=False)

    def inverse_transform(self, X: Any) -> NDArray[Any]:
        """E[x|z] of latents ``X`` (rows, latent dimensions): (rows, features), in the dtype of ``X``.

        Raises:
            ValueError: ``X`` has another number of columns than the model has latent dimensions.
        """
        check_is_fitted(self, "model_")
        z = check_array(X, dtype=(np.float64, np.float32))
        if z.shape[1] != self._n_features_out:
            raise ValueError(f"X has {z.shape[1]} columns, but the model has {self._n_features_out} latent dimensions")
        latents = z.astype(np.float32).reshape(len(z), *self.model_.spec.latent_shape)
        return np.asarray(self.model_.decode(latents)).reshape(len(z), -1).astype(z.dtype, copy=False)

    @property
    def _n_features_out(self) -> int:
        return self.model_.spec.latent_dim

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
