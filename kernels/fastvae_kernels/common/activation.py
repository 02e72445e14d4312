"""The activations, applied to a float32 accumulator before it leaves the chip."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl

from .elementary import exp, log1p_unit

__all__ = ["activate"]

_SELU_SCALE = tl.constexpr(1.0507009873554805)
_SELU_ALPHA = tl.constexpr(1.6732632423543772)


@triton.jit
def _exp(x, FAST: tl.constexpr):
    """The hardware's exp where the result is about to be rounded to 16 bits or fewer."""
    return tl.exp(x) if FAST else exp(x)


@triton.jit
def _sigmoid(x, FAST: tl.constexpr):
    """1 / (1 + exp(-x)), with its relative accuracy in the lower tail."""
    e = _exp(-tl.abs(x), FAST)
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def _tanh(x, FAST: tl.constexpr):
    """Odd polynomial below 0.625 (Cephes, tanhf.c), else from exp(-2 |x|)."""
    t = x * x
    p = tl.fma(tl.fma(-5.70498872745e-3, t, 2.06390887954e-2), t, -5.37397155531e-2)
    p = tl.fma(tl.fma(p, t, 1.33314422036e-1), t, -3.33332819422e-1)
    e = _exp(-2.0 * tl.abs(x), FAST)
    large = (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.625, tl.fma(p * t, x, x), tl.where(x < 0, -large, large))


@triton.jit
def _expm1_negative(x, FAST: tl.constexpr):
    """exp(x) - 1 for x < 0: Taylor to x⁹ / 9! above -½, whose remainder is 3e-10 of it."""
    p = tl.fma(2.755731922398589e-06, x, 2.48015873015873e-05)
    p = tl.fma(tl.fma(p, x, 1.984126984126984e-04), x, 1.388888888888889e-03)
    p = tl.fma(tl.fma(p, x, 8.333333333333333e-03), x, 4.1666666666666664e-02)
    p = tl.fma(tl.fma(p, x, 1.6666666666666666e-01), x, 0.5)
    return tl.where(x > -0.5, tl.fma(p * x, x, x), _exp(x, FAST) - 1.0)


@triton.jit
def _gelu(x, FAST: tl.constexpr):
    """x Φ(x). Φ(-|x|) = ½ exp(-x²/2) t P(t) with t = 1 / (1 + |x| / √8), where P fits erfcx to 1.1e-8.

    The exponential's argument is carried in two parts, so that the tail keeps its relative accuracy.
    """
    size = tl.where(tl.abs(x) > 20.0, 20.0, tl.abs(x))
    t = 1.0 / tl.fma(size, 0.35355339059327373, 1.0)
    p = tl.fma(0.042352103873, t, -0.23085544852)
    p = tl.fma(tl.fma(p, t, 0.4861746976), t, -0.44697314466)
    p = tl.fma(tl.fma(p, t, 0.1270868157), t, -0.05723148788)
    p = tl.fma(tl.fma(p, t, 0.093000362494), t, 0.17537685871)
    p = tl.fma(tl.fma(p, t, 0.24688058446), t, 0.28209385273)
    p = tl.fma(p, t, 0.2820947948)
    square = size * size
    tail = 0.5 * p * t * _exp(-0.5 * square, FAST) * tl.fma(-0.5, tl.fma(size, size, -square), 1.0)
    return x * tl.where(x < 0, tail, 1.0 - tail)


@triton.jit
def activate(y, alpha, ACTIVATION: tl.constexpr, FAST: tl.constexpr):
    """`y` of float32 through the activation named, any of `checks.ACTIVATIONS`; NaN stays NaN.

    alpha: leaky_relu's slope or elu's alpha, a float32 that the others ignore. FAST: the result will be rounded to
    a dtype narrower than float32.
    """
    if ACTIVATION == "relu":
        y = tl.where(y < 0, 0.0, y)
    elif ACTIVATION == "leaky_relu":
        y = tl.where(y < 0, alpha * y, y)
    elif ACTIVATION == "elu":
        y = tl.where(y < 0, alpha * _expm1_negative(y, FAST), y)
    elif ACTIVATION == "selu":
        y = _SELU_SCALE * tl.where(y < 0, _SELU_ALPHA * _expm1_negative(y, FAST), y)
    elif ACTIVATION == "gelu":
        y = _gelu(y, FAST)
    elif ACTIVATION == "gelu_tanh":
        inner = y * tl.fma(y * y, 0.07135481627260025, 1.5957691216057308)
        y = y * _sigmoid(inner, FAST)
    elif ACTIVATION == "silu":
        y = y * _sigmoid(y, FAST)
    elif ACTIVATION == "tanh":
        y = _tanh(y, FAST)
    elif ACTIVATION == "sigmoid":
        y = _sigmoid(y, FAST)
    elif ACTIVATION == "softplus":
        y = tl.where(y < 0, 0.0, y) + log1p_unit(_exp(-tl.abs(y), FAST))
    else:
        tl.static_assert(ACTIVATION == "identity")
    return y
