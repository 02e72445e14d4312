"""Missing values of a table, filled in by a VAE: ``VAEImputer``."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.impute import MissingIndicator
from sklearn.utils import check_scalar

from fastvae.api import VAE
from fastvae.imputation import METHODS
from fastvae.integrations.sklearn._base import VAEEstimator
from fastvae.spec import ModelSpec
from fastvae.training import MIWAE, Objective, Recipe, tabular_spec

# Steps of the optimizer where epochs is None, and the fewest and most epochs that they may be.
STEPS, EPOCHS = 10_000, (5, 300)


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, VAEEstimator):
    """NaN in, filled in: each row's missing entries from what a VAE makes of its observed ones.

    Without a ``model`` one is trained on the rows with their holes, by the bound of MIWAE (Mattei & Frellsen 2019),
    that of the observed entries alone. A column that no row of ``fit`` has is filled with about 0. Observed entries
    come back bit for bit. A row's noise belongs to its index: :meth:`transform` gives the same for the same rows in the
    same order.

    Args:
        model: see :class:`fastvae.integrations.sklearn.VAEEstimator`, as the other parameters of training.
        latent_dim: dimensions of z; None is a third of the columns, from 1 to 16.
        hidden: widths of the hidden layers, whose activation is tanh.
        epochs: None is 300, or for many rows fewer, so that there are about 10,000 steps; at least 5.
        validation_fraction: none by default, for it is the rows of ``fit`` that are mostly filled.
        draws: importance samples of a row in each step of training.
        method: how to impute, see :mod:`fastvae.imputation`: ``importance``, ``metropolis`` or ``gibbs``.
        samples: importance samples of a row, or steps of its chain, in :meth:`transform`.
        sample_posterior: fill with a draw given what is observed, and not with the mean: for multiple imputation fit
            once, and transform with several values of ``seed_``.
        add_indicator: append a column for each column that had missing entries in ``fit``, 1 where they are.

    Attributes:
        model_: the fitted model, a :class:`fastvae.VAE`.
        n_features_in_: columns of a row.
        seed_: of the noise, drawn from ``random_state``.
        indicator_: the :class:`sklearn.impute.MissingIndicator`, None without ``add_indicator``.

    >>> import numpy as np
    >>> from sklearn.datasets import load_wine
    >>> from fastvae.integrations.sklearn import VAEImputer
    >>> X = load_wine().data
    >>> X[::3, 2] = np.nan
    >>> bool(np.isnan(VAEImputer(epochs=2, random_state=0).fit_transform(X)).any())
    False
    """

    def __init__(
        self,
        *,
        model: VAE | str | os.PathLike[str] | None = None,
        latent_dim: int | None = None,
        hidden: Sequence[int] = (128, 128),
        likelihood: str = "gaussian",
        beta: float = 1.0,
        epochs: int | None = None,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        validation_fraction: float = 0.0,
        draws: int = 20,
        method: str = "importance",
        samples: int = 1000,
        sample_posterior: bool = False,
        add_indicator: bool = False,
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
        self.draws = draws
        self.method = method
        self.samples = samples
        self.sample_posterior = sample_posterior
        self.add_indicator = add_indicator

    def fit(self, X: Any, y: Any = None) -> VAEImputer:
        """Train on ``X`` (rows, features), NaN where an entry is missing, or check that it fits the model given.

        Raises:
            ValueError, TypeError: ``X`` or a parameter is none that fits.
        """
        X = self._checked(X, reset=True, ensure_min_samples=2, ensure_all_finite="allow-nan")
        self._fit_model(X)
        self.indicator_ = MissingIndicator(error_on_new=False).fit(X) if self.add_indicator else None
        return self

    def transform(self, X: Any) -> NDArray[Any]:
        """``X`` (rows, features) without NaN, in its dtype; with ``add_indicator`` the indicator's columns after it.

        Warns with :class:`fastvae.errors.ImputationWarning` where the values rest on too few samples.

        Raises:
            ValueError: ``X`` does not fit the model.
        """
        X = self._checked(X, reset=False, ensure_all_finite="allow-nan")
        result: NDArray[Any] = np.array(X)
        if np.isnan(X).any():
            flat = X.reshape(len(X), *self.model_.spec.input_shape)
            # The encoder of a model trained here knows rows filled with means; estimates it has never seen.
            imputed = self.model_.impute(
                flat,
                method=self.method,  # type: ignore[arg-type]
                n_imputations=2 if self.sample_posterior else 1,
                seed=self.seed_,
                samples=self.samples,
                rounds=1 if self.model is None else 3,
            )
            result = (imputed[0] if self.sample_posterior else imputed).reshape(X.shape)
        if self.indicator_ is None:
            return result
        return np.hstack([result, self.indicator_.transform(X).astype(result.dtype)])

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Names of the columns: those of ``fit``, and the indicator's."""
        names: NDArray[Any] = super().get_feature_names_out(input_features)
        if self.indicator_ is None:
            return names
        return np.concatenate([names, self.indicator_.get_feature_names_out(names)])

    def _objective(self) -> Objective:
        return MIWAE(draws=int(self.draws))

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_scalar(self.draws, "draws", Integral, min_val=1)
        check_scalar(self.samples, "samples", Integral, min_val=4)
        if self.method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(map(repr, METHODS))}, got {self.method!r:.80}")

    def _spec(self, features: int) -> ModelSpec:
        latent_dim = self.latent_dim or min(16, max(1, features // 3))
        hidden = tuple(map(int, self.hidden))
        return tabular_spec(features, int(latent_dim), hidden, likelihood=self.likelihood, activation="tanh")  # type: ignore[arg-type]

    def _recipe(self, rows: int) -> Recipe:
        fewest, most = EPOCHS
        epochs = self.epochs or min(most, max(fewest, STEPS // math.ceil(rows / self.batch_size)))
        return Recipe(
            epochs=int(epochs),
            batch=int(self.batch_size),
            learning_rate=float(self.learning_rate),
            kl_weight=float(self.beta),
            kl_warmup=0,
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
