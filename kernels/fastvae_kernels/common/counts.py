"""How unlikely one count is under a Poisson or a negative binomial, with extra zeros or not, in float32.

Loader's formulas (2000), as in `reference/poisson_nll.py` and `reference/negative_binomial_nll.py`: no large terms
cancel. The logarithm of mean over count is taken in two parts, so that it is right to the last place where both are
large and close.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl

from .elementary import exp, log, log1p, log1p_unit, log_parts
from .special import stirling_rest

__all__ = ["negative_binomial_term", "poisson_term", "with_extra_zeros"]

_MOST = tl.constexpr(1e30)  # counts beyond it count as it
_LEAST = tl.constexpr(1.1754943508222875e-38)  # the smallest normal number, whose logarithm is no special case
_LARGEST = tl.constexpr(8.507059173023462e37)  # logarithms within it have finite differences
_LOG_MOST_DISPERSION = tl.constexpr(60.0)
_HALF_LOG_2_PI = tl.constexpr(0.9189385332046727)
_PLAIN = tl.constexpr(80.0)  # exp(±80) is a normal float32


@triton.jit
def _softplus(x):
    """log(1 + exp(x)), accurate in both tails."""
    return tl.maximum(x, 0.0) + log1p_unit(exp(-tl.abs(x)))


@triton.jit
def _bounded(x):
    """A logarithm whose difference from another is finite; NaN stays."""
    return tl.where(x > _LARGEST, _LARGEST, tl.where(x < -_LARGEST, -_LARGEST, x))


@triton.jit
def _count(x):
    """A count where it is positive, and 1 elsewhere; its logarithm; and that in the two parts of `log_parts`."""
    seen = tl.where(x > 0.0, tl.where(x > _MOST, _MOST, tl.where(x < _LEAST, _LEAST, x)), 1.0)
    n, rest = log_parts(seen)
    return seen, tl.fma(n, 0.693359375, rest), n, rest


@triton.jit
def _exp_rest(t):
    """exp(t) - 1 - t for |t| <= 1: t² times a polynomial, to 5e-9 of it."""
    p = tl.fma(tl.fma(2.772278721e-6, t, 2.535482879e-5), t, 1.984402443e-4)
    p = tl.fma(tl.fma(tl.fma(p, t, 1.388545199e-3), t, 8.333310271e-3), t, 4.166673454e-2)
    p = tl.fma(tl.fma(p, t, 1.666666701e-1), t, 4.999999979e-1)
    return t * t * p


@triton.jit
def poisson_term(log_rate, x):
    """exp(m) - x m + log Γ(x + 1) in nats, m = log_rate, and what it would be at x = 0; float32 tensors of one shape.

    x (exp(t) - 1 - t) + ½ log(2 π x) + δ(x) with t = m - log x.
    """
    m = _bounded(log_rate)
    rate = exp(m)
    seen, log_x, n, rest = _count(x)
    t = tl.fma(n, -0.693359375, m) - rest
    near = tl.abs(t) < 1.0
    far = tl.where(rate < float("inf"), rate - seen * (1.0 + t), rate)
    deviance = tl.where(near, seen * _exp_rest(tl.where(near, t, 0.0)), far)
    nll = deviance + (tl.fma(0.5, log_x, _HALF_LOG_2_PI) + stirling_rest(seen, log_x))
    return tl.where(x > 0.0, nll, rate), rate


@triton.jit
def _deviance(x, log_x, theta, r, b, log_b, t):
    """x log((1 + θ/μ) / (1 + θ/x)) + θ log((θ + μ) / (θ + x)), with t = log(μ / x), θ = exp(r).

    Of a and b = x + θ that is b log(1 + p (exp(t) - 1)) - a t with p = a / b, where a is x, or θ and t has the other
    sign. The smaller is taken, so that p is at most ½. Then with e = exp(t) - 1 and s = p e it is also
    a ((e - t) - p e² (s - log(1 + s)) / s²), of which neither term is large where t is small.
    """
    few = x <= theta
    a = tl.where(few, x, theta)
    p = a / b
    t = tl.where(few, t, -t)
    near = tl.abs(t) < 1.0
    small = tl.where(near, t, 0.0)
    excess = _exp_rest(small)
    e = small + excess
    s = p * e
    h = 1.0 / (2.0 + s)
    w = s * h  # s - log(1 + s) is s w - 2 (atanh w - w)
    square = w * w
    q = tl.fma(tl.fma(1.120319379e-1, square, 1.092674224e-1), square, 1.429213915e-1)
    q = tl.fma(tl.fma(q, square, 1.999992224e-1), square, 3.333333348e-1)
    of_near = a * (excess - p * e * e * (h - 2.0 * w * h * h * q))
    log_p = tl.where(few, log_x, r) - log_b
    bounded = tl.where(near, 0.0, tl.where(t < _PLAIN, t, _PLAIN))
    logs = tl.where(t < _PLAIN, log1p(p * (exp(bounded) - 1.0)), _softplus(t + log_p))
    of_far = tl.where(b * logs == float("inf"), b * logs, b * logs - a * t)
    return tl.where(near, of_near, of_far)


@triton.jit
def _of_zero(m, r, theta):
    """θ log(1 + exp(m - r)): m - r would lose what large logarithms round to, so exponentials are divided instead."""
    plain = (tl.abs(m) < _PLAIN) & (tl.abs(r) < _PLAIN)
    mean = exp(tl.where(plain, m, 0.0))
    spread = tl.where(plain, theta, 1.0)
    less = m < r
    ratio = tl.where(less, mean, spread) / tl.where(less, spread, mean)
    tail = tl.where(plain, ratio, exp(-tl.abs(m - r)))
    return theta * (tl.maximum(m - r, 0.0) + log1p_unit(tail))


@triton.jit
def negative_binomial_term(log_mean, log_dispersion, x):
    """-log p(x) in nats for mean exp(log_mean) and dispersion θ = exp(log_dispersion), and what it would be at x = 0.

    float32 tensors that broadcast. θ saturates at exp(60), a Poisson.
    """
    m = _bounded(log_mean)
    r = _bounded(log_dispersion)
    r = tl.where(r > _LOG_MOST_DISPERSION, _LOG_MOST_DISPERSION, r)
    theta = exp(r)
    seen, log_x, n, rest = _count(x)
    t = tl.fma(n, -0.693359375, m) - rest
    both = seen + theta
    log_both = log(both)
    few = seen <= theta
    # The logarithm of what x adds to θ, as a factor.
    spread = tl.where(few, log1p_unit(tl.where(few, seen / tl.where(few, theta, 1.0), 0.0)), log_both - r)
    nll = stirling_rest(seen, log_x) + (stirling_rest(theta, r) - stirling_rest(both, log_both))
    nll += _HALF_LOG_2_PI + 0.5 * (log_x + spread)
    nll += _deviance(seen, log_x, theta, r, both, log_both, t)
    of_zero = _of_zero(m, r, theta)
    return tl.where(x > 0.0, nll, of_zero), of_zero


@triton.jit
def with_extra_zeros(nll, of_zero, zero_logit, x):
    """The nll of x where something else makes it 0 with probability sigmoid(zero_logit), of_zero being that of 0."""
    other = _softplus(zero_logit)
    extra = _softplus(-zero_logit)
    either = other + of_zero
    joint = tl.minimum(extra, either) - log1p_unit(exp(-tl.abs(extra - either)))
    return tl.where(x > 0.0, nll + other, joint)
