"""E[x|z] of likelihoods whose mean is not their location."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Mean = Callable[[Tensor, Tensor | None], Tensor]

# Below it (in size) the mean of a continuous Bernoulli is 1/2 + l/12 - l³/720 + ... to float64; above it 1/l is small.
NEAR = 0.3
SERIES = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160)


def continuous_bernoulli(logits: Tensor, _: Tensor | None = None) -> Tensor:
    """1 / (1 - exp(-l)) - 1 / l, which is 1/2 at l = 0; computed for |l|, of which the mean is 1 less that for -|l|."""
    size = logits.abs()
    far, near = size.clamp_min(NEAR), size.clamp_max(NEAR)
    excess = torch.zeros_like(size)
    for coefficient in reversed(SERIES):
        excess = excess * near.square() + coefficient
    above = torch.where(size < NEAR, 0.5 + near * excess, -torch.expm1(-far).reciprocal() - far.reciprocal())
    return torch.where(logits < 0, 1 - above, above)


def counts(log_mean: Tensor, zero_logits: Tensor | None = None) -> Tensor:
    """exp(log_mean), of at most the largest finite number, less the share of extra zeros."""
    mean = torch.exp(log_mean).clamp_max(torch.finfo(log_mean.dtype).max)
    return mean if zero_logits is None else mean * torch.sigmoid(-zero_logits)


def categorical(logits: Tensor, _: Tensor | None = None) -> Tensor:
    """Probabilities (rows, categories)."""
    return torch.softmax(logits, 1)


MEANS: dict[str, Mean] = {
    "bernoulli": lambda logits, _: torch.sigmoid(logits),
    "continuous_bernoulli": continuous_bernoulli,
    "poisson": counts,
    "negative_binomial": counts,
    "multinomial": counts,
    "categorical": categorical,
}


def expectation(location: Tensor, zero_logits: Tensor | None = None, *, likelihood: str) -> Tensor:
    """E[x|z] of the likelihood called ``likelihood``; the location itself for those that have no other."""
    mean = MEANS.get(likelihood)
    return location if mean is None else mean(location, zero_logits)
