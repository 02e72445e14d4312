"""What ``likelihood=`` may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from fastvae.errors import InputError
from fastvae.heads import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    FixedGaussian,
    Laplace,
    Likelihood,
    Mixed,
    Multinomial,
    NegativeBinomial,
    Parametric,
    PerDimensionGaussian,
    Poisson,
    PredictedGaussian,
    StudentT,
)
from fastvae.layers import Shape

Kind: TypeAlias = Literal[
    "bernoulli",
    "gaussian",
    "laplace",
    "student_t",
    "continuous_bernoulli",
    "poisson",
    "negative_binomial",
    "multinomial",
    "categorical",
]
LikelihoodArgument: TypeAlias = Kind | float | Tensor | Likelihood
NAMED: dict[str, Any] = {
    kind.kind: kind
    for kind in (Laplace, StudentT, ContinuousBernoulli, Poisson, NegativeBinomial, Multinomial, Categorical)
}
ACCEPTED = (
    f"{', '.join(map(repr, get_args(Kind)))}, a variance, a tensor of log-variances, or a likelihood of fastvae.heads"
)


@dataclass(frozen=True)
class Asked:
    """``kind`` of the likelihood, and the caller's own description of it or log-variances, where there are any."""

    kind: str
    template: Likelihood | None = None
    log_variances: Tensor | None = None


def asked_for(argument: object, shape: Shape) -> Asked:
    """What the caller asked for, for rows of ``shape``.

    Raises:
        InputError: not one of the things ACCEPTED.
    """
    match argument:
        case np.ndarray() | bool():  # an array compares with text entry by entry
            pass
        case str() if argument in get_args(Kind):
            return Asked(argument)
        case Real():
            return Asked("gaussian", FixedGaussian(_variance(argument)))
        case Tensor():
            log_variances = row_tensor(argument, shape, "likelihood: log-variances")
            return Asked("gaussian", PerDimensionGaussian(), log_variances)
        case PerDimensionGaussian() if argument == PerDimensionGaussian():
            raise InputError("likelihood: for a variance per dimension pass its tensor of log-variances")
        case PredictedGaussian():
            raise InputError("likelihood: for a predicted variance pass 'gaussian', with a decoder that returns both")
        case FixedGaussian() | PerDimensionGaussian():
            return Asked("gaussian", argument)
        case Bernoulli():
            return Asked("bernoulli", argument)
        case Mixed():
            return Asked("mixed", argument)
        case Parametric() if type(argument) in NAMED.values():
            if any(argument.stacks()):
                raise InputError(
                    f"likelihood: a {argument.kind} must have no stacks of layers; the decoder's outputs are its "
                    "parameters"
                )
            return Asked(argument.kind, argument)  # type: ignore[arg-type]
    raise InputError(f"likelihood: expected {ACCEPTED}, got {argument!r:.80}")


def _variance(argument: Any) -> float:
    try:
        variance = float(argument)
    except OverflowError:
        variance = math.inf
    if not 0 < variance < math.inf:
        raise InputError(f"likelihood: a variance must be positive and finite, got {argument!r:.80}")
    return variance


def row_tensor(tensor: Tensor, shape: Shape, what: str) -> Tensor:
    """The tensor in float64 and of ``shape``.

    Raises:
        InputError: it does not broadcast to that, or holds anything but finite floats.
    """
    fits = tensor.ndim <= len(shape) and all(
        own in (1, full) for own, full in zip(reversed(tensor.shape), reversed(shape), strict=False)
    )
    if not fits or not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
        raise InputError(
            f"{what} must be finite floats that broadcast to {shape}, got {tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    return tensor.detach().cpu().double().expand(shape).contiguous()
