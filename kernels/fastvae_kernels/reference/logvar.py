"""Defines `logvar`: turns what an encoder's head emits into a log-variance."""

import math

import torch
from torch import Tensor

from ..layout import own_output
from .activation import softplus_
from .precision import accumulation_dtype

__all__ = ["logvar"]


def _log_softplus(raw: Tensor) -> Tensor:
    """log(log(1 + exp(raw))); below -40 it equals raw to within 2e-18, where exp(raw) may underflow."""
    return torch.where(raw < -40, raw, softplus_(raw.clamp_min(-40)).log_())


def logvar(raw: Tensor, parametrization: str, eps: float, minimum: float | None, maximum: float | None) -> Tensor:
    """The log-variance of any-shaped `raw`, by parametrization, then clamped.

    "logvar": raw. "softplus_std": 2 log(softplus(raw) + eps). "variance": log(raw + eps), of at least the
    smallest normal number.
    """
    y = raw.to(accumulation_dtype(raw.dtype))
    if parametrization == "softplus_std":
        y = _log_softplus(y)
        if eps > 0:
            y = torch.logaddexp(y, y.new_full((), math.log(eps)))
        y = y * 2
    elif parametrization == "variance":
        y = (y + eps).clamp_min_(torch.finfo(y.dtype).tiny).log_()
    if minimum is not None or maximum is not None:
        y = y.clamp(minimum, maximum)
    return own_output(y, raw)
