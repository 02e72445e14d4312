"""Elementary functions where the hardware's fast ones are not accurate enough."""

# mypy: allow-untyped-defs, allow-untyped-decorators

import triton
import triton.language as tl

__all__ = ["exp", "log", "log1p", "log1p_unit", "log_parts"]


@triton.jit
def exp(x):
    """exp to within 2 units in the last place; inf above 88.8, subnormal below -87.4, NaN for NaN.

    The hardware's exp2 on a rounded x log2 e loses a bit for every doubling of |x|; this reduces x by a
    multiple of a two-part ln 2 first (Cephes, expf.c).
    """
    x = tl.where(x > 89.0, 89.0, tl.where(x < -104.0, -104.0, x))
    n = tl.floor(tl.fma(x, 1.4426950408889634, 0.5))
    r = tl.fma(n, 2.12194440e-4, tl.fma(n, -0.693359375, x))
    p = tl.fma(tl.fma(1.9875691500e-4, r, 1.3981999507e-3), r, 8.3334519073e-3)
    p = tl.fma(tl.fma(tl.fma(p, r, 4.1665795894e-2), r, 1.6666665459e-1), r, 5.0000001201e-1)
    y = tl.fma(p * r, r, r) + 1.0
    power = n.to(tl.int32)
    half = power >> 1
    scale = ((half + 127) << 23).to(tl.float32, bitcast=True)
    rest = ((power - half + 127) << 23).to(tl.float32, bitcast=True)
    return y * scale * rest


@triton.jit
def log_parts(x):
    """n and l with log x = 0.693359375 n + l for a positive normal x: n is whole, and |l| under 0.4.

    x is 2**n (1 + f) with 1 + f from sqrt(1/2) to sqrt(2) (Cephes, logf.c). What is subtracted from the first part,
    which is exact, before the second keeps the accuracy of the difference.
    """
    bits = x.to(tl.int32, bitcast=True)
    power = (bits - 0x3F3504F3) >> 23
    f = (bits - (power << 23)).to(tl.float32, bitcast=True) - 1.0
    n = power.to(tl.float32)
    p = tl.fma(tl.fma(7.0376836292e-2, f, -1.1514610310e-1), f, 1.1676998740e-1)
    p = tl.fma(tl.fma(tl.fma(p, f, -1.2420140846e-1), f, 1.4249322787e-1), f, -1.6668057665e-1)
    p = tl.fma(tl.fma(tl.fma(p, f, 2.0000714765e-1), f, -2.4999993993e-1), f, 3.3333331174e-1)
    square = f * f
    y = tl.fma(n, -2.12194440e-4, f * square * p)
    return n, f + tl.fma(-0.5, square, y)


@triton.jit
def log(x):
    """log of a positive normal number to within 1 unit in the last place; inf for inf, NaN for NaN."""
    n, rest = log_parts(x)
    return tl.where(x < float("inf"), tl.fma(n, 0.693359375, rest), x)


@triton.jit
def log1p_unit(u):
    """log(1 + u) for u in [0, 1] to within 1.4 units in the last place; NaN for NaN.

    u + u² q(u) with q a polynomial of degree 8, minimax in log1p's relative error: 2**-27.5 in exact arithmetic.
    The term u² q is under 0.45 of the result, so rounding in q costs little.
    """
    q = tl.fma(tl.fma(-3.318474628e-03, u, 2.020459436e-02), u, -5.766446143e-02)
    q = tl.fma(tl.fma(tl.fma(q, u, 1.068055704e-01), u, -1.535539776e-01), u, 1.969540119e-01)
    q = tl.fma(tl.fma(tl.fma(q, u, -2.495858818e-01), u, 3.333051205e-01), u, -4.999993145e-01)
    return tl.fma(u * u, q, u)


@triton.jit
def log1p(x):
    """log(1 + x) for x from -1/2 on, inf included, to within 3 units in the last place; NaN for NaN."""
    large = x > 1.0
    base = tl.where(large, x, 1.0)
    unit = tl.where(x < 0.0, -x / (1.0 + x), tl.where(large, 1.0 / base, x))
    y = log1p_unit(unit)
    return tl.where(x < 0.0, -y, tl.where(large, log(base) + y, y))
