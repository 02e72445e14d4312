"""What the estimators share: parameters, checks of their input, a model trained or given, and pickling."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

from fastvae.api import VAE
from fastvae.formats import native
from fastvae.loading import load
from fastvae.model import Model, check_model
from fastvae.runtime import Settings
from fastvae.spec import PerDimensionGaussian, PointHead
from fastvae.training import ELBO, Objective, Recipe, SpecModule, fit, reproducible, standardize, tabular_spec

# Where epochs is None: the fewest and the most of them, and steps of the optimizer beyond which there are fewer.
EPOCHS, STEPS = (5, 100), 20_000

# A trained model's results for a row have the same bits whatever rows are around it.
SETTINGS = Settings(batch_invariant=True)


@dataclass(frozen=True)
class _Packed:
    """A model as the bytes of a native file, which hold no code, and how it runs."""

    data: bytes
    settings: Settings

    @classmethod
    def of(cls, vae: VAE) -> _Packed:
        return cls(native.to_bytes(vae._model), vae._engine.settings)

    def unpacked(self) -> VAE:
        source = "the estimator's model"
        model = native.from_bytes(self.data, source=source)
        return VAE(check_model(model, source=source, allow_nonfinite=True), self.settings)


class VAEEstimator(BaseEstimator):
    """Base of the estimators: ``fit`` trains a VAE on the rows it gets, or takes one that is trained already.

    Args:
        model: a :class:`fastvae.VAE`, the name of an embedded model or a checkpoint's path: nothing is trained, and
            those of the parameters below that describe training have no meaning. None trains a perceptron.
        latent_dim: dimensions of z; None is a fifth of the columns, from 1 to 16.
        hidden: widths of the encoder's hidden layers, and of the decoder's in reverse.
        likelihood: ``gaussian``, of columns in any units, each with a variance of its own that is learned;
            ``bernoulli``, of values in [0, 1].
        beta: weight of the KL term.
        epochs: times that training goes over the rows; None is 100, or for many rows fewer, so that there are about
            20,000 steps; at least 5.
        batch_size: rows of a step.
        learning_rate: of AdamW, falling to 0 along a cosine.
        validation_fraction: share of the rows, in [0, 1), that is not trained on and chooses the epoch to stop at, the
            one with the highest ELBO for them. 0 trains on all rows to the end, as it is where the share is no row.
        random_state: an integer gives the same model and scores every time on one machine.

    Attributes:
        model_: the fitted model, a :class:`fastvae.VAE`.
        n_features_in_: columns of a row.
        seed_: of the noise in training and scores, drawn from ``random_state``.
    """

    def __init__(
        self,
        *,
        model: VAE | str | os.PathLike[str] | None = None,
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
        self.model = model
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.likelihood = likelihood
        self.beta = beta
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: _Packed.of(value) if isinstance(value, VAE) else value for name, value in state.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        unpacked = {name: value.unpacked() if isinstance(value, _Packed) else value for name, value in state.items()}
        super().__setstate__(unpacked)

    def _objective(self) -> Objective:
        """What training minimises."""
        return ELBO()

    def _check_parameters(self) -> None:
        """ValueError or TypeError for a parameter that is none."""
        if self.latent_dim is not None:
            check_scalar(self.latent_dim, "latent_dim", Integral, min_val=1)
        if self.epochs is not None:
            check_scalar(self.epochs, "epochs", Integral, min_val=1)
        check_scalar(self.batch_size, "batch_size", Integral, min_val=1)
        check_scalar(self.learning_rate, "learning_rate", Real, min_val=0, include_boundaries="neither")
        check_scalar(self.beta, "beta", Real, min_val=0)
        fraction = self.validation_fraction
        check_scalar(fraction, "validation_fraction", Real, min_val=0, max_val=1, include_boundaries="left")
        if isinstance(self.hidden, str) or not isinstance(self.hidden, Sequence):
            raise TypeError(f"hidden: expected a sequence of widths, such as (64, 32), got {self.hidden!r:.80}")
        for width in self.hidden:
            check_scalar(width, "hidden", Integral, min_val=1)

    def _checked(self, X: Any, *, reset: bool, **options: Any) -> NDArray[Any]:
        """``X`` as an array (rows, features) of float64 or float32, checked as scikit-learn does.

        Raises:
            ValueError: ``X`` is none, or holds numbers beyond float32.
            NotFittedError: without ``reset``, of an estimator that has not seen ``fit``.
        """
        if not reset:
            check_is_fitted(self, "model_")
        X = validate_data(self, X, reset=reset, dtype=(np.float64, np.float32), **options)
        if len(X) and max(np.nanmax(X, initial=0), -np.nanmin(X, initial=0)) > np.finfo(np.float32).max:
            raise ValueError("X holds numbers too large for float32, in which models compute; scale it")
        return np.asarray(X)

    def _fit_model(self, X: NDArray[Any]) -> None:
        """Set ``model_`` and ``seed_``: the model given, or one trained on ``X`` (rows, features)."""
        self._check_parameters()
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.model_ = self._trained(X) if self.model is None else self._given(self.model, X.shape[1])

    def _given(self, model: VAE | str | os.PathLike[str], features: int) -> VAE:
        vae = model if isinstance(model, VAE) else load(model, batch_invariant=True)
        spec = vae.spec
        if spec.condition is not None:
            raise ValueError("model: estimators have no condition to give it; expected an unconditional model")
        if isinstance(spec.posterior, PointHead):
            raise ValueError("model: expected a variational autoencoder, this encoder is deterministic")
        expected = math.prod(spec.input_shape)
        if features != expected:
            raise ValueError(f"X has {features} features, but model expects {expected} features as input")
        return vae

    def _trained(self, X: NDArray[Any]) -> VAE:
        features = X.shape[1]
        latent_dim = self.latent_dim or default_latent_dim(features)
        hidden = tuple(map(int, self.hidden))
        spec = tabular_spec(features, int(latent_dim), hidden, likelihood=self.likelihood)  # type: ignore[arg-type]
        if self.likelihood == "bernoulli" and len(X) and not (np.nanmin(X) >= 0 and np.nanmax(X) <= 1):
            raise ValueError(
                f"X: likelihood='bernoulli' expects values in [0, 1], found {np.nanmin(X)}, {np.nanmax(X)}"
            )
        held_out = self._held_out(len(X))
        rows, validation = (torch.tensor(X[part], dtype=torch.float32) for part in (~held_out, held_out))
        with reproducible(self.seed_, threads=1) as generator:
            module = SpecModule(spec)
            if isinstance(spec.likelihood, PerDimensionGaussian):
                standardize(module, rows)
            recipe = self._recipe(len(rows))
            fit(
                module,
                rows,
                validation if len(validation) else None,
                recipe,
                seed=self.seed_,
                generator=generator,
                objective=self._objective(),
                fused=True,
            )
        weights = {name: weight.detach().contiguous() for name, weight in module.state_dict().items()}
        return VAE(Model(spec, weights), SETTINGS)

    def _held_out(self, rows: int) -> NDArray[np.bool_]:
        """Which rows of ``fit`` choose the epoch, (rows,): the same ones for one seed; none where a model is given."""
        held_out = np.zeros(rows, np.bool_)
        count = 0 if self.model is not None else min(int(self.validation_fraction * rows), rows - 2)
        held_out[np.random.default_rng(self.seed_).permutation(rows)[:count]] = True
        return held_out

    def _recipe(self, rows: int) -> Recipe:
        """How to train on so many rows."""
        fewest, most = EPOCHS
        epochs = self.epochs or min(most, max(fewest, STEPS // math.ceil(rows / self.batch_size)))
        return Recipe(
            epochs=int(epochs),
            batch=int(self.batch_size),
            learning_rate=float(self.learning_rate),
            kl_weight=float(self.beta),
            kl_warmup=int(epochs) // 4,
        )


def default_latent_dim(features: int) -> int:
    """A fifth of the columns, from 1 to 16."""
    return min(16, max(1, features // 5))
