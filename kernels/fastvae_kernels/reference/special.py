"""Parts of the log-gamma function that stay accurate where differences of it would cancel.

Stirling: log Γ(a) = (a - ½) log a - a + ½ log 2π + δ(a), with δ(a) = 1/(12 a) - 1/(360 a³) + ... for large a
(Abramowitz and Stegun 6.1.41).
"""

import math

import torch
from torch import Tensor

__all__ = ["gamma_ratio_half", "stirling_rest"]

_LARGE = 16.0
# From _LARGE on the first term left out is under 2e-16 for both.
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_RATIO = (-1 / 8, 1 / 192, -1 / 640, 17 / 14336, -31 / 18432, 691 / 180224)
# Below exp of it log Γ(a) is -log a: what is left out, 0.58 a, is under 1e-26.
_TINY = -60.0


def _odd_series(a: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Σ c_k a^-(2k+1)."""
    inverse = a.reciprocal()
    square = inverse.square()
    total = torch.zeros_like(a)
    for coefficient in reversed(coefficients):
        total = total.mul_(square).add_(coefficient)
    return total.mul_(inverse)


def stirling_rest(log_a: Tensor) -> Tensor:
    """δ(a) for a = exp(log_a) of any size: what Stirling's formula leaves of log Γ(a)."""
    a = torch.exp(log_a.clamp(_TINY, 60.0))
    log_gamma = torch.where(log_a < _TINY, -log_a, torch.lgamma(a))
    direct = log_gamma - (a - 0.5) * log_a + a - 0.5 * math.log(2 * math.pi)
    return torch.where(a < _LARGE, direct, _odd_series(a.clamp_min(_LARGE), _STIRLING))


def gamma_ratio_half(a: Tensor) -> Tensor:
    """log Γ(a + ½) - log Γ(a) for a > 0; for large a ½ log a plus a series in 1/a."""
    large = a.clamp_min(_LARGE)
    series = 0.5 * large.log() + _odd_series(large, _RATIO)
    small = a.clamp_max(_LARGE)
    return torch.where(a < _LARGE, torch.lgamma(small + 0.5) - torch.lgamma(small), series)
