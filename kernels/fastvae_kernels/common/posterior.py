"""The Gaussian posterior: its standard deviation and the KL of one dimension."""

# mypy: allow-untyped-defs, allow-untyped-decorators

import triton
import triton.language as tl

from .elementary import exp

__all__ = ["kl_term", "std_from_logvar"]

_FLOAT_MAX = tl.constexpr(3.4028234663852886e38)


@triton.jit
def std_from_logvar(logvar):
    """exp(logvar / 2), saturated at the largest float32; NaN for NaN."""
    std = exp(0.5 * logvar)
    return tl.where(std > _FLOAT_MAX, _FLOAT_MAX, std)


@triton.jit
def kl_term(mean, logvar):
    """½ (exp(logvar) - 1 - logvar + mean²): one dimension's KL from N(mean, exp logvar) to N(0, 1).

    Within [-1, 1] the first three terms are logvar² times their Taylor series to logvar⁹ / 11!, which loses
    nothing where they cancel; its remainder is under 2 / 12! of the sum.
    """
    x = logvar
    p = tl.fma(2.505210838544172e-08, x, 2.755731922398589e-07)
    p = tl.fma(tl.fma(p, x, 2.7557319223985893e-06), x, 2.48015873015873e-05)
    p = tl.fma(tl.fma(p, x, 1.984126984126984e-04), x, 1.388888888888889e-03)
    p = tl.fma(tl.fma(p, x, 8.333333333333333e-03), x, 4.1666666666666664e-02)
    p = tl.fma(tl.fma(p, x, 1.6666666666666666e-01), x, 0.5)
    excess = tl.where(tl.abs(x) < 1.0, p * x * x, exp(x) - 1.0 - x)
    return 0.5 * excess + 0.5 * mean * mean
