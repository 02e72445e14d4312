"""A perceptron for tables in any units, the architecture that estimators train by default."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fastvae.errors import InputError
from fastvae.layers import Activation, Affine, Layer, Linear, Stack
from fastvae.spec import Bernoulli, GaussianHead, ModelSpec, PerDimensionGaussian
from fastvae.training.loop import moments
from fastvae.training.module import FUNCTIONS, SpecModule

Function: TypeAlias = Literal["relu", "tanh", "silu", "gelu"]


def tabular_spec(
    features: int,
    latent_dim: int,
    hidden: Sequence[int] = (64, 32),
    *,
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian",
    activation: Function = "relu",
    name: str = "",
) -> ModelSpec:
    """The spec of a VAE for tables: an encoder of ``hidden`` widths, and a decoder of the same in reverse.

    Args:
        features: columns of the table.
        latent_dim: dimensions of z.
        hidden: widths of the encoder's hidden layers; may be empty.
        likelihood: ``gaussian``, standardised on the way in and put back on the way out, with a learned variance for
            each column (see :func:`standardize`); ``bernoulli``, for data in [0, 1].

    Raises:
        InputError: an unknown likelihood or activation.
        WeightFormatError: a width below 1.
    """
    if likelihood not in ("gaussian", "bernoulli"):
        raise InputError(f"likelihood: expected 'gaussian' or 'bernoulli', got {likelihood!r:.80}")
    if activation not in FUNCTIONS:
        raise InputError(f"activation: expected one of {', '.join(map(repr, FUNCTIONS))}, got {activation!r:.80}")
    widths, back = (features, *hidden), (latent_dim, *reversed(hidden))
    gaussian = likelihood == "gaussian"
    first: Stack = (Affine("encoder.standardize", (features,)),) if gaussian else ()
    last: Stack = (Linear("decoder.logits", back[-1], features),)
    if gaussian:
        last = (Linear("decoder.standardized", back[-1], features), Affine("decoder.units", (features,)))
    return ModelSpec(
        input_shape=(features,),
        latent_shape=(latent_dim,),
        encoder=(*first, *perceptron("encoder", widths, activation)),
        posterior=heads(widths[-1], latent_dim),
        decoder=(*perceptron("decoder", back, activation), *last),
        likelihood=PerDimensionGaussian("likelihood.logvar") if gaussian else Bernoulli(),
        name=name,
    )


def standardize(module: SpecModule, rows: Tensor) -> None:
    """Set the constants of a Gaussian ``tabular_spec``'s module, and where its variance starts, from ``rows`` [n, d].

    NaN are missing entries. The log-variance is learned in raw units. It differs from the one in standardised units by
    a constant, so training takes the same steps in either. A column that does not vary is only shifted.
    """
    mean, std = moments(rows)
    values = {
        "encoder.standardize.scale": 1 / std,
        "encoder.standardize.shift": -mean / std,
        "decoder.units.scale": std,
        "decoder.units.shift": mean,
        "likelihood.logvar": 2 * torch.log(std),
    }
    with torch.no_grad():
        tensors = module.state_dict()
        for name, value in values.items():
            tensors[name].copy_(value)


def perceptron(prefix: str, widths: Sequence[int], activation: Function = "relu") -> Stack:
    """Linear layers between ``widths``, each with its activation: ``prefix.hidden1``, ``prefix.hidden2``, ..."""
    layers: list[Layer] = []
    for i, (before, after) in enumerate(pairwise(widths), start=1):
        layers += [Linear(f"{prefix}.hidden{i}", before, after), Activation(activation)]
    return tuple(layers)


def heads(features: int, latent_dim: int) -> GaussianHead:
    """Posterior mean and log-variance, a linear layer each."""
    mean, logvar = (Linear(f"posterior.{key}", features, latent_dim) for key in ("mean", "logvar"))
    return GaussianHead("separate", mean=(mean,), scale=(logvar,))
