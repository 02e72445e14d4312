"""Maths that several Triton kernels share unchanged: Philox to normals, exp, and the KL of one dimension."""

# mypy: allow-untyped-defs, allow-untyped-decorators

import triton
import triton.language as tl

__all__ = ["exp", "kl_term", "normals", "philox_words", "std_from_logvar", "uniforms"]

_FLOAT_MAX = tl.constexpr(3.4028234663852886e38)
_RADIANS = tl.constexpr(1.4629180792671596e-09)  # 2 π / 2**32


@triton.jit
def philox_words(row, quad, seed, stream):
    """The four uint32 words of counter (row low, row high, quad, stream): integers whose shapes broadcast."""
    row = tl.to_tensor(row).to(tl.int64)
    key = tl.to_tensor(seed).to(tl.int64)
    c0 = (row & 0xFFFFFFFF).to(tl.uint32)
    c1 = ((row >> 32) & 0xFFFFFFFF).to(tl.uint32)
    c2 = tl.to_tensor(quad).to(tl.uint32)
    c3 = (tl.to_tensor(stream).to(tl.int64) & 0xFFFFFFFF).to(tl.uint32)
    return tl.philox(key, c0, c1, c2, c3)


@triton.jit
def _unit(word):
    """(w + ½) / 2**32 in float32: in [2**-33, 1]."""
    return word.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10


@triton.jit
def _pair(radius_word, angle_word):
    """A Box-Muller pair. The angle is reduced to [-π/4, π/4) while it is still an exact integer."""
    radius = tl.sqrt(-2.0 * tl.log(_unit(radius_word)))
    turned = angle_word + 0x20000000
    quadrant = turned >> 30
    x = ((turned & 0x3FFFFFFF).to(tl.int32) - 0x20000000).to(tl.float32) * _RADIANS
    t = x * x
    # Minimax polynomials on [-π/4, π/4] from Moshier's Cephes, sinf.c.
    s = tl.fma(tl.fma(-1.9515295891e-4, t, 8.3321608736e-3), t, -1.6666654611e-1)
    s = tl.fma(s * t, x, x)
    c = tl.fma(tl.fma(2.443315711809948e-5, t, -1.388731625493765e-3), t, 4.166664568298827e-2)
    c = tl.fma(c * t, t, tl.fma(t, -0.5, 1.0))
    swapped = (quadrant & 1) != 0
    cosine = tl.where(swapped, s, c)
    sine = tl.where(swapped, c, s)
    cosine = tl.where(((quadrant + 1) & 2) != 0, -cosine, cosine)
    sine = tl.where((quadrant & 2) != 0, -sine, sine)
    return radius * cosine, radius * sine


@triton.jit
def _interleave(v0, v1, v2, v3):
    """[...] x 4 -> [..., 2, 2], whose last two axes read v0, v1, v2, v3."""
    return tl.join(tl.join(v0, v2), tl.join(v1, v3))


@triton.jit
def normals(row, quad, seed, stream):
    """Four standard normals for each counter: [..., 2, 2] of float32, in the order of their dimensions."""
    w0, w1, w2, w3 = philox_words(row, quad, seed, stream)
    n0, n1 = _pair(w0, w1)
    n2, n3 = _pair(w2, w3)
    return _interleave(n0, n1, n2, n3)


@triton.jit
def uniforms(row, quad, seed, stream):
    """Four uniforms for each counter: [..., 2, 2] of float32 in [2**-33, 1 - 2**-24]."""
    w0, w1, w2, w3 = philox_words(row, quad, seed, stream)
    return tl.minimum(_interleave(_unit(w0), _unit(w1), _unit(w2), _unit(w3)), 0.9999999403953552)


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
