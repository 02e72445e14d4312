"""Quantile functions in float64, with which uniforms become draws from a distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Above this rate a Poisson's quantile is that of the normal of its mean and variance: they differ by a few counts.
LARGE_RATE = 1e10
# Up to this rate probabilities are added up, so many at a time.
SMALL_RATE = 20.0
SUMMED = 4
# Gammas of larger shape are their mean to six digits, in a count's noise of more.
LARGE_SHAPE = 1e12
NEWTON_STEPS = 16
CONVERGED = 1e-6  # the next step would be of its square


def laplace(u: Tensor) -> Tensor:
    """Of the Laplace distribution of location 0 and scale 1."""
    return torch.where(u < 0.5, torch.log(2 * u), -torch.log(2 - 2 * u))


def continuous_bernoulli(u: Tensor, logits: Tensor) -> Tensor:
    """log(1 + u (exp(l) - 1)) / l, which is u at l = 0; for l > 0 as 1 less the quantile of 1 - u at -l."""
    size = logits.abs()
    below = torch.where(logits > 0, 1 - u, u)
    far = size.clamp_min(1e-9)
    x = -torch.log1p(below * torch.expm1(-far)) / far
    x = torch.where(size < 1e-9, below, x).clamp(0, 1)
    return torch.where(logits > 0, 1 - x, x)


def student_t(u: Tensor, v: Tensor, df: Tensor) -> Tensor:
    """A draw, not a quantile, from two uniforms: sqrt(ν (u^(-2/ν) - 1)) cos(2 π v).

    Source: Bailey, "Polar generation of random variates with the t-distribution", 1994.
    """
    largest = torch.finfo(df.dtype).max
    square = df * torch.expm1(-2 / df * torch.log(u)).clamp_max(largest)
    return square.clamp_max(largest).sqrt() * torch.cos(2 * math.pi * v)


def poisson(u: Tensor, rate: Tensor) -> Tensor:
    """The smallest count k with P(X <= k) >= u; of a rate beyond LARGE_RATE that of a normal, rounded."""
    shape = torch.broadcast_shapes(u.shape, rate.shape)  # type: ignore[no-untyped-call]
    u, rate = u.expand(shape), rate.expand(shape)
    found: Tensor = (rate + rate.sqrt() * torch.special.ndtri(u)).round()
    for chosen, count in (
        (rate <= SMALL_RATE, _poisson_by_summing),
        ((rate > SMALL_RATE) & (rate <= LARGE_RATE), _poisson_by_halving),
    ):
        found[chosen] = count(u[chosen], rate[chosen])
    return found


def _poisson_by_summing(u: Tensor, rate: Tensor) -> Tensor:
    """For [n] of small rates: probabilities are added until they reach u, of fewer and fewer entries."""
    counts = torch.zeros_like(u)
    probability = torch.exp(-rate)
    below = u - probability  # u - P(X <= k)
    left = torch.arange(len(u), device=u.device)
    last = 0
    while len(left):
        for k in range(last + 1, last + 1 + SUMMED):
            counts[left] += below > 0
            probability = probability * rate / k
            below = below - probability
        last += SUMMED
        going = (below > 0) & (probability > 0)
        left, probability, below, rate = left[going], probability[going], below[going], rate[going]
    return counts


def _poisson_by_halving(u: Tensor, rate: Tensor) -> Tensor:
    """For [n]: between bounds on the tails (Boucheron, Lugosi and Massart 2013, section 2.2)."""
    below, above = -torch.log(u), -torch.log1p(-u)
    low = (rate - (2 * rate * below).sqrt()).floor().clamp_min(0) - 1  # P(X <= low) < u, or low is -1
    high = (rate + above / 3 + (above.square() / 9 + 2 * rate * above).sqrt()).ceil() + 1
    while bool((high - low > 1).any()):
        middle = ((low + high) / 2).floor().clamp_min(0)
        enough = torch.special.gammaincc(middle + 1, rate) >= u
        high, low = torch.where(enough, middle, high), torch.where(enough, low, middle)
    return high


def log_gamma(shape: Tensor, uniforms: Sequence[Tensor]) -> Tensor:
    """The logarithm of a draw, not a quantile, from the gamma distribution of ``shape`` and scale 1.

    By rejection (Marsaglia and Tsang 2000) from a pair of normals: two tries, of which one serves for all but one entry
    in four hundred at the worst; those are quantiles. ``uniforms`` are six: a radius and an angle, what each try is
    accepted by, what raises shapes below 1, and the quantiles'.
    """
    radius, angle, first, second, boost, spare = uniforms
    shape = shape.clamp(1e-8, LARGE_SHAPE)
    small = shape < 1
    raised = torch.where(small, shape + 1, shape)
    d = raised - 1 / 3
    c = (9 * d).rsqrt()
    length, turn = (-2 * torch.log(radius)).sqrt(), 2 * math.pi * angle
    log_x = torch.full_like(d, math.nan)
    for x, u in ((length * torch.cos(turn), first), (length * torch.sin(turn), second)):
        root = 1 + c * x
        log_v = 3 * torch.log(root.clamp_min(1e-30))
        accepted = (root > 0) & (torch.log(u) < 0.5 * x * x + d * (1 - root**3 + log_v))
        log_x = torch.where(log_x.isnan() & accepted, torch.log(d) + log_v, log_x)
    rejected = log_x.isnan()
    log_x[rejected] = torch.log(gamma(spare[rejected], raised[rejected]))
    return torch.where(small, log_x + torch.log(boost) / shape, log_x)


def gamma(u: Tensor, shape: Tensor) -> Tensor:
    """Of the gamma distribution of ``shape`` and scale 1, by Newton's method on a logarithmic scale.

    In log x both log P(X <= x) and log P(X > x) are concave, so that Newton's method goes towards the root from one
    side and never past it. It starts at a bound on the tail: x <= the root below about the mean, x >= it above.
    """
    shape = shape.clamp(1e-8, LARGE_SHAPE)
    below, above = -torch.log(u), -torch.log1p(-u)
    lower = torch.exp((torch.lgamma(shape + 1) - below) / shape)
    lower = torch.maximum(lower, shape - (2 * shape * below).sqrt())
    upper = shape + (2 * shape * above).sqrt() + above
    is_lower = u < torch.special.gammainc(shape, shape.clamp_min(0.3))
    x = torch.where(is_lower, lower, upper).clamp_min(1e-300)
    moving = torch.ones_like(is_lower)
    for _ in range(NEWTON_STEPS):
        log_density = shape * torch.log(x) - x - torch.lgamma(shape)  # of log X
        p = torch.where(is_lower, torch.special.gammainc(shape, x), torch.special.gammaincc(shape, x)).clamp_min(1e-300)
        gap = torch.log(p) + torch.where(is_lower, below, above)
        step = gap * torch.exp(torch.log(p) - log_density).clamp_max(1e300)
        step = torch.where(is_lower, -step, step)
        x = torch.where(moving, (x * torch.exp(step)).clamp_min(1e-300), x)
        moving &= step.abs() > CONVERGED  # each by itself: a row's draw must not depend on others
        if not bool(moving.any()):
            break
    return x
