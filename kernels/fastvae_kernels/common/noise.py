"""Philox to normals and uniforms, on chip."""

# mypy: allow-untyped-defs, allow-untyped-decorators

import triton
import triton.language as tl

__all__ = ["normals", "philox_words", "uniforms"]

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
