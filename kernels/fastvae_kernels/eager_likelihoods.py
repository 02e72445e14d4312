"""Likelihoods as anybody would write them, in plain PyTorch and any dtype."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LIKELIHOODS", "masked_sum", "samples"]


def samples(parameter: Tensor, x: Tensor) -> Tensor:
    """Data [n, ...] repeated for each of a parameter's rows [s*n, ...]."""
    return x.repeat(parameter.shape[0] // x.shape[0], *[1] * (x.dim() - 1))


def masked_sum(nll: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """The sum of the rows' terms that count."""
    kept = nll if mask is None else torch.where(samples(nll, mask), nll, 0)
    return kept.flatten(1).sum(1)


def _laplace_nll(location: Tensor, log_scale: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    scaled = (samples(location, x) - location).abs() / torch.exp(log_scale)
    return masked_sum(math.log(2) + log_scale + scaled, x, mask)


def _student_t_nll(
    location: Tensor, log_scale: Tensor, log_df: Tensor, x: Tensor, mask: Tensor | None = None
) -> Tensor:
    df = log_df.exp()
    y = (samples(location, x) - location) / log_scale.exp()
    normaliser = torch.lgamma(df / 2) - torch.lgamma((df + 1) / 2) + (df * math.pi).log() / 2
    return masked_sum(normaliser + log_scale + (df + 1) / 2 * torch.log1p(y**2 / df), x, mask)


def _continuous_bernoulli_nll(logits: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    normaliser = F.softplus(logits, threshold=60) + (logits / 2).tanh().div(logits).log()
    return masked_sum(normaliser - logits * samples(logits, x), x, mask)


def _zero_inflated(nll: Tensor, of_zero: Tensor, zero_logits: Tensor | None, x: Tensor) -> Tensor:
    if zero_logits is None:
        return nll
    extra = torch.sigmoid(zero_logits)
    return -torch.where(x > 0, (1 - extra).log() - nll, (extra + (1 - extra) * torch.exp(-of_zero)).log())


def _poisson_nll(
    log_rate: Tensor, x: Tensor, mask: Tensor | None = None, *, zero_logits: Tensor | None = None
) -> Tensor:
    data, rate = samples(log_rate, x), log_rate.exp()
    nll = rate - data * log_rate + torch.lgamma(data + 1)
    return masked_sum(_zero_inflated(nll, rate, zero_logits, data), x, mask)


def _negative_binomial_nll(
    log_mean: Tensor,
    log_dispersion: Tensor,
    x: Tensor,
    mask: Tensor | None = None,
    *,
    zero_logits: Tensor | None = None,
) -> Tensor:
    data, mean, dispersion = samples(log_mean, x), log_mean.exp(), log_dispersion.exp()
    of_zero = dispersion * torch.log1p(mean / dispersion)
    gammas = torch.lgamma(dispersion) + torch.lgamma(data + 1) - torch.lgamma(data + dispersion)
    nll = gammas + of_zero + data * torch.log1p(dispersion / mean)
    return masked_sum(_zero_inflated(nll, of_zero, zero_logits, data), x, mask)


def _categorical_nll(logits: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    probability, data = torch.softmax(logits, -1), samples(logits, x)
    if mask is None:
        return -(data * probability.log()).sum(-1)
    possible = ~samples(logits, mask)
    seen = ((data > 0) & ~possible).any(-1, keepdim=True)
    possible = torch.where(seen, data > 0, possible)
    return -(probability * possible).sum(-1).log()


LIKELIHOODS: dict[str, Callable[..., Tensor]] = {
    "laplace_nll": _laplace_nll,
    "student_t_nll": _student_t_nll,
    "continuous_bernoulli_nll": _continuous_bernoulli_nll,
    "poisson_nll": _poisson_nll,
    "negative_binomial_nll": _negative_binomial_nll,
    "categorical_nll": _categorical_nll,
}
