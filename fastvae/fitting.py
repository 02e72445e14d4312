"""Mixtures of Gaussians fitted to a trained model's latents, for samples to be drawn from; with scikit-learn."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastvae import noise
from fastvae.arrays import Array
from fastvae.errors import InputError, UnsupportedError
from fastvae.heads import GaussianMixture
from fastvae.model import Model, check_model
from fastvae.spec import ModelSpec

logger = logging.getLogger("fastvae")

Covariance = Literal["full", "diagonal"]
MOST_COMPONENTS = 2**16
NAME = "sampler"
STEPS = 300


def check_sampler(spec: ModelSpec, scaled_latents: bool, components: Any, covariance: Any) -> None:
    """Refuse what no sampler can be fitted for, before anything is encoded.

    Raises:
        InputError: no such number of components or covariance.
        UnsupportedError: see :meth:`fastvae.VAE.fit_sampler`.
    """
    noise.check_count("components", components, least=1, most=MOST_COMPONENTS)
    if not isinstance(covariance, str) or covariance not in ("full", "diagonal"):
        raise InputError(f"covariance: expected 'full' or 'diagonal', got {covariance!r:.80}")
    if covariance == "full" and len(spec.latent_shape) > 1:
        raise InputError(f"covariance: 'full' is for flat latents, these are {spec.latent_shape}; use 'diagonal'")
    if spec.any_size or scaled_latents:
        what = "is for images of any size" if spec.any_size else "was loaded with scaled_latents"
        raise UnsupportedError(f"fit_sampler: the model {what}, and a mixture is for latents of one shape and scale")
    if importlib.util.find_spec("sklearn") is None:
        raise UnsupportedError("fit_sampler: scikit-learn is not installed; pip install 'fastvae-engine[sklearn]'")


def with_sampler(model: Model, z: Array, components: int, covariance: Covariance, seed: int) -> Model:
    """``model`` with a mixture fitted to the latents ``z`` (rows, *latent_shape) as its sampler; its own is replaced.

    Raises:
        InputError: fewer rows than components.
    """
    if len(z) < components:
        raise InputError(f"x: expected at least as many rows as components, {components}, got {len(z)}")
    plain = z.detach().cpu().double().numpy() if isinstance(z, Tensor) else np.asarray(z, np.float64)
    found = _fit(plain.reshape(len(plain), -1), components, covariance, seed)
    sampler = GaussianMixture(components, NAME, "probabilities", covariance)
    before = {} if model.spec.sampler is None else model.spec.sampler.tensors(model.spec.latent_shape, ())
    spec = replace(model.spec, sampler=sampler)
    weights = {name: weight for name, weight in model.weights.items() if name not in before}
    shapes = sampler.tensors(spec.latent_shape, spec.input_shape)
    for name, values in found.items():
        tensor = torch.from_numpy(values).to(getattr(torch, spec.dtype))
        weights[f"{NAME}.{name}"] = tensor.reshape(shapes[f"{NAME}.{name}"])
    card = {**model.card, NAME: f"{covariance} mixture of {components}, fitted to {len(z):,} rows, seed {seed}"}
    return check_model(Model(spec, weights, card), source="fit_sampler", allow_nonfinite=True)


def _fit(z: NDArray[np.float64], components: int, covariance: Covariance, seed: int) -> dict[str, NDArray[np.float64]]:
    """The mixture's tensors by the ends of their names, in float64."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as Estimator

    kind = "full" if covariance == "full" else "diag"
    random = np.random.RandomState(np.random.MT19937(seed))
    estimator = Estimator(components, covariance_type=kind, random_state=random, max_iter=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(z)
    if not estimator.converged_:
        logger.warning("fit_sampler: the fit did not converge in %d steps; fewer components may do as well", STEPS)
    found = {"weights": estimator.weights_, "means": estimator.means_}
    if covariance == "full":
        return found | {"factors": np.linalg.cholesky(estimator.covariances_)}
    return found | {"logvars": np.log(estimator.covariances_)}
