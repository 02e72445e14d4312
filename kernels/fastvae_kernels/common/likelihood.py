"""How unlikely one entry is under each likelihood: the score that row sums and matrix-product epilogues share."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl

from .elementary import exp, log, log1p, log1p_unit
from .special import gamma_ratio_rest

__all__ = [
    "bernoulli_term",
    "continuous_bernoulli_term",
    "entry_gradient",
    "entry_score",
    "gaussian_term",
    "laplace_term",
    "squared_error_term",
    "student_t_term",
]

_FLOAT_MAX = tl.constexpr(3.4028234663852886e38)
_LEAST = tl.constexpr(1.1754943508222875e-38)  # the smallest normal number
_LOG_2 = tl.constexpr(0.6931471805599453)
_HALF_LOG_2_PI = tl.constexpr(0.9189385332046727)
_PLAIN = tl.constexpr(80.0)  # exp(±80) is a normal float32


@triton.jit
def _exp(x, FAST: tl.constexpr):
    return tl.exp(x) if FAST else exp(x)


@triton.jit
def bernoulli_term(logit, x, FAST: tl.constexpr):
    """softplus(logit) - x logit in nats, as (max(logit, 0) - x logit) + log1p(exp(-|logit|)).

    logit, x: float32 tensors of one shape. A confident right answer costs exp(-|logit|), to within 4 units in
    the last place, not 0. FAST takes the hardware's exponential, whose error adds at most
    |logit| exp(-|logit|) 2**-24, far less than rounding a logit to 16 bits does.
    """
    tail = log1p_unit(_exp(-tl.abs(logit), FAST))
    return (tl.maximum(logit, 0.0) - x * logit) + tail


@triton.jit
def gaussian_term(mean, logvar, x, FAST: tl.constexpr):
    """½ (log 2π + logvar + (x - mean)² exp(-logvar)) in nats; mean, logvar, x: float32 tensors that broadcast.

    Never NaN for finite inputs: the square is d (d exp(-logvar)) where that exponential is a normal float32, and
    elsewhere (d exp(-logvar / 2))² with both factors saturated at the largest float32, so that 0 inf never
    occurs. FAST takes the hardware's exponential, whose relative error grows as |logvar| 2**-24.
    """
    d = x - mean
    plain = tl.abs(logvar) < _PLAIN
    scale = _exp(tl.where(plain, -logvar, -0.5 * logvar), FAST)
    scale = tl.where(scale > _FLOAT_MAX, _FLOAT_MAX, scale)
    finite = tl.where(d > _FLOAT_MAX, _FLOAT_MAX, tl.where(d < -_FLOAT_MAX, -_FLOAT_MAX, d))
    root = finite * scale
    square = tl.where(plain, d * (d * scale), root * root)
    return 0.5 * square + (0.5 * logvar + _HALF_LOG_2_PI)


@triton.jit
def laplace_term(location, log_scale, x, FAST: tl.constexpr):
    """log 2 + log_scale + |x - location| exp(-log_scale) in nats; float32 tensors that broadcast.

    Never NaN for finite inputs: both factors saturate at the largest float32. FAST takes the hardware's exponential.
    """
    distance = tl.abs(x - location)
    distance = tl.where(distance > _FLOAT_MAX, _FLOAT_MAX, distance)
    scale = _exp(-log_scale, FAST)
    scale = tl.where(scale > _FLOAT_MAX, _FLOAT_MAX, scale)
    return distance * scale + (log_scale + _LOG_2)


@triton.jit
def student_t_term(location, log_scale, log_df, x):
    """½ log 2π - ρ(ν/2) + log_scale + ½ (ν + 1) log(1 + y²/ν) in nats; float32 tensors that broadcast.

    y = (x - location) exp(-log_scale), ρ is `gamma_ratio_rest`, and ν = exp(log_df) saturates at exp(±60). Where y²/ν
    is large its logarithm is taken of the factors, so that nothing overflows; never NaN for finite inputs.
    """
    log_df = tl.where(log_df > 60.0, 60.0, tl.where(log_df < -60.0, -60.0, log_df))
    df = exp(log_df)
    distance = tl.abs(x - location)
    distance = tl.where(distance > _FLOAT_MAX, _FLOAT_MAX, tl.where(distance < _LEAST, _LEAST, distance))
    scale = exp(-log_scale)
    y = distance * tl.where(scale > _FLOAT_MAX, _FLOAT_MAX, scale)
    near = y < 1e18
    y = tl.where(near, y, 0.0)
    ratio = y * y / df
    near = near & (ratio < 1e10)
    far = 2.0 * (log(distance) - log_scale) - log_df
    logs = tl.where(near, log1p(tl.where(near, ratio, 0.0)), far)
    normaliser = _HALF_LOG_2_PI - gamma_ratio_rest(0.5 * df, log_df - _LOG_2)
    return (0.5 * (df + 1.0)) * logs + (normaliser + log_scale)


@triton.jit
def continuous_bernoulli_term(logit, x, FAST: tl.constexpr):
    """(max(logit, 0) - x logit) + log((1 - exp(-a)) / a) in nats, with a = |logit|; float32 tensors of one shape.

    The last term is, below 1, -a/2 + a²/24 - a⁴/2880 + ..., of which what is left out is under 3e-9.
    """
    size = tl.abs(logit)
    near = tl.where(size < 1.0, size, 1.0)
    far = tl.where(size < 1.0, 1.0, size)
    square = near * near
    series = tl.fma(tl.fma(square, -1.0 / 9676800.0, 1.0 / 181440.0), square, -1.0 / 2880.0)
    series = tl.fma(tl.fma(series, square, 1.0 / 24.0), square, -0.5 * near)
    direct = log(1.0 - _exp(-far, FAST)) - log(far)
    return (tl.maximum(logit, 0.0) - x * logit) + tl.where(size < 1.0, series, direct)


@triton.jit
def squared_error_term(output, x):
    """(x - output)²; output, x: float32 tensors of one shape."""
    difference = x - output
    return difference * difference


@triton.jit
def entry_score(output, logvar, x, LIKELIHOOD: tl.constexpr, FAST: tl.constexpr):
    """The score of data x under `output`: logits of a "bernoulli" or "continuous_bernoulli", a "gaussian" mean, a
    "laplace" location, or a "squared_error" reconstruction.

    output, x: float32 tensors of one shape; logvar: float32, broadcasting with them, read by "gaussian" and, as the
    logarithm of its scale, by "laplace".
    """
    if LIKELIHOOD == "bernoulli":
        score = bernoulli_term(output, x, FAST)
    elif LIKELIHOOD == "gaussian":
        score = gaussian_term(output, logvar, x, FAST)
    elif LIKELIHOOD == "laplace":
        score = laplace_term(output, logvar, x, FAST)
    elif LIKELIHOOD == "continuous_bernoulli":
        score = continuous_bernoulli_term(output, x, FAST)
    else:
        tl.static_assert(LIKELIHOOD == "squared_error")
        score = squared_error_term(output, x)
    return score


@triton.jit
def _gaussian_gradient(mean, logvar, x, FAST: tl.constexpr):
    """d exp(-logvar) and ½ (1 - d² exp(-logvar)) with d = mean - x, the derivatives of `gaussian_term`; as safe."""
    d = mean - x
    plain = tl.abs(logvar) < _PLAIN
    scale = _exp(tl.where(plain, -logvar, -0.5 * logvar), FAST)
    scale = tl.where(scale > _FLOAT_MAX, _FLOAT_MAX, scale)
    finite = tl.where(d > _FLOAT_MAX, _FLOAT_MAX, tl.where(d < -_FLOAT_MAX, -_FLOAT_MAX, d))
    root = finite * scale
    by_mean = tl.where(plain, d * scale, root * scale)
    square = tl.where(plain, d * (d * scale), root * root)
    return by_mean, 0.5 * (1.0 - square)


@triton.jit
def entry_gradient(output, logvar, x, LIKELIHOOD: tl.constexpr, FAST: tl.constexpr):
    """The derivatives of `entry_score` by output and logvar for "bernoulli", "gaussian" and "squared_error"; others
    than "gaussian" have none by logvar, and 0 is given for it.
    """
    by_logvar = 0.0 * output
    if LIKELIHOOD == "bernoulli":
        e = _exp(-tl.abs(output), FAST)
        by_output = tl.where(output < 0, e, 1.0) / (1.0 + e) - x
    elif LIKELIHOOD == "gaussian":
        by_output, by_logvar = _gaussian_gradient(output, logvar, x, FAST)
    else:
        tl.static_assert(LIKELIHOOD == "squared_error")
        by_output = 2.0 * (output - x)
    return by_output, by_logvar
