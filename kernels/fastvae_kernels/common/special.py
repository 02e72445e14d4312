"""Parts of the log-gamma function that stay accurate where differences of it would cancel, in float32.

Triton has no log-gamma function, and needs none: Stirling's formula takes the large terms out by hand, and what it
leaves is a polynomial in 1/a for a from 1 on, and for smaller a that of a + 1 and a few logarithms.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl

from .elementary import log, log1p_unit

__all__ = ["gamma_ratio_rest", "stirling_rest"]


@triton.jit
def stirling_rest(a, log_a):
    """δ(a) = log Γ(a) - (a - ½) log a + a - ½ log 2π for a >= 0, given its logarithm, to within 1e-7 max(1, |δ|).

    u P(u) with u = 1/a and P fitted to 3e-9 on [0, 1]; below it δ(a) = δ(a + 1) + (a + ½) log(1 + 1/a) - 1.
    """
    small = a < 1.0
    u = 1.0 / tl.where(small, a + 1.0, a)
    p = tl.fma(tl.fma(1.371370115e-4, u, -6.29753601e-4), u, 1.044721804e-3)
    p = tl.fma(tl.fma(tl.fma(p, u, -5.048820721e-5), u, -2.773376267e-3), u, -7.901252782e-8)
    p = tl.fma(p, u, 8.33333309e-2) * u
    shift = tl.fma(a + 0.5, log1p_unit(tl.where(small, a, 0.0)) - log_a, -1.0)
    return tl.where(small, p + shift, p)


@triton.jit
def gamma_ratio_rest(a, log_a):
    """log Γ(a + ½) - log Γ(a) - ½ log a for positive normal a, given its logarithm, to within 1e-7 of max(1, itself).

    u P(u) with u = 1/a and P fitted to 6e-9 on [0, 1]; below, that of a + 1, and ½ log(a (a + 1)) - log(a + ½).
    """
    small = a < 1.0
    u = 1.0 / tl.where(small, a + 1.0, a)
    p = tl.fma(tl.fma(-2.739125177e-4, u, 1.252063017e-3), u, -2.059552443e-3)
    p = tl.fma(tl.fma(tl.fma(p, u, 9.917139053e-5), u, 5.199845975e-3), u, 1.360482298e-7)
    p = tl.fma(p, u, -1.249999949e-1) * u
    near = tl.where(small, a, 0.0)
    shift = 0.5 * (log_a + log1p_unit(near)) - log(near + 0.5)
    return tl.where(small, p + shift, p)
