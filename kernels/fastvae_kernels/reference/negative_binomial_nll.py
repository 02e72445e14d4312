"""Defines `negative_binomial_nll`: the negative log-likelihood of overdispersed counts, with extra zeros or not."""

import math

import torch
from torch import Tensor

from .counts import MOST, bounded, softplus, with_extra_zeros
from .precision import accumulation_dtype
from .rows import along_rows, split_samples, sum_rows
from .special import stirling_rest

__all__ = ["negative_binomial_nll"]

_LOG_LARGEST = 60.0


def _deviance(x: Tensor, log_x: Tensor, theta: Tensor, r: Tensor, m: Tensor) -> Tensor:
    """x log((1 + θ/μ) / (1 + θ/x)) + θ log((θ + μ) / (θ + x)), which is 0 at x = μ.

    Near it also (x + θ) (log(1 + p (exp(t) - 1)) - p t) with t = log(μ / x) and p = x / (x + θ). Each is taken where
    the terms it subtracts are the smaller: of size x |t| here, x log(1 + θ/x) + θ log(1 + x/θ) there.
    """
    t = m - log_x
    of_data = x * softplus(r - log_x), theta * softplus(log_x - r)
    far = (x * softplus(r - m) - of_data[0]) + (theta * softplus(m - r) - of_data[1])
    p, bounded_t = torch.sigmoid(log_x - r), t.clamp(-1, 1)
    near = (x + theta) * (torch.log1p(p * torch.expm1(bounded_t)) - p * bounded_t)
    return torch.where((t.abs() < 1) & (x * t.abs() < of_data[0] + of_data[1]), near, far)


def negative_binomial_nll(
    log_mean: Tensor, log_dispersion: Tensor, zero_logits: Tensor | None, x: Tensor, mask: Tensor | None
) -> Tensor:
    """Σ log Γ(θ) + log Γ(x+1) - log Γ(x+θ) + θ log(1 + μ/θ) + x log(1 + θ/μ) over all axes but 0 -> [s*n].

    μ = exp(log_mean), θ = exp(log_dispersion), the variance being μ + μ²/θ; θ saturates at exp(60), a Poisson. log_mean
    and zero_logits [s*n, ...]; log_dispersion of log_mean's shape, of a row's, or a scalar; x and mask [n, ...]. As in
    `poisson_nll` log-gamma functions enter by what Stirling's formula leaves of them, so that at x = μ no large terms
    cancel; any x >= 0.
    """
    acc = accumulation_dtype(log_mean.dtype)
    if log_mean.numel() == 0:
        return torch.zeros(log_mean.shape[0], dtype=acc, device=log_mean.device)
    n = x.shape[0]
    x = x.to(acc).clamp_max(MOST)
    m = bounded(split_samples(log_mean.to(acc), n))
    r = bounded(along_rows(log_dispersion.to(acc), log_mean, n)).clamp_max(_LOG_LARGEST)
    theta = torch.exp(r)
    of_zero = theta * softplus(m - r)
    log_x = torch.log(torch.where(x > 0, x, 1.0))
    nll = _deviance(x, log_x, theta, r, m)
    nll += 0.5 * (math.log(2 * math.pi) + log_x + softplus(log_x - r))
    nll += stirling_rest(log_x) + stirling_rest(r) - stirling_rest(torch.logaddexp(r, log_x))
    nll = torch.where(x > 0, nll, of_zero)
    extra = None if zero_logits is None else along_rows(zero_logits.to(acc), log_mean, n)
    return sum_rows(with_extra_zeros(nll, of_zero, extra, x), mask)
