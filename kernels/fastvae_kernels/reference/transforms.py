"""From Philox's words to numbers: uniforms, and normals by Box-Muller in float64."""

import math

import numpy as np
import torch
from torch import Tensor

from .philox import Words

__all__ = ["box_muller", "normals", "uniform_of", "uniforms"]

_BELOW_ONE = 1.0 - 2.0**-24
_SQRT_HALF = 0x3F3504F3  # its bits in float32
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LOG = (
    1.479819860511658591e-01,
    1.531383769920937332e-01,
    1.818357216161805012e-01,
    2.222219843214978396e-01,
    2.857142874366239149e-01,
    3.999999999940941908e-01,
    6.666666666666735130e-01,
)
_SIN = (
    2.73144475909634e-15,
    -7.643970296165793e-13,
    1.6058977312444268e-10,
    -2.5052107616995878e-08,
    2.755731921916323e-06,
    -0.00019841269841254974,
    0.008333333333333316,
    -0.16666666666666666,
)
_TURN = math.pi * 2.0**-31


def _uniform(word: Tensor) -> Tensor:
    """(w + ½) / 2**32 in float32, every step rounded to it: in [2**-33, 1]."""
    return word.to(torch.float32).mul_(2.0**-32).add_(2.0**-33)


def uniform_of(word: Tensor) -> Tensor:
    """A uniform a word, in float32: at most 1 - 2**-24."""
    return _uniform(word).clamp_max_(_BELOW_ONE)


def uniforms(words: Words) -> Words:
    """Four uniforms a counter."""
    w0, w1, w2, w3 = (uniform_of(word) for word in words)
    return w0, w1, w2, w3


def _horner(z: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """The polynomial, highest power first; every product and every sum is rounded."""
    value = torch.full_like(z, coefficients[0])
    for coefficient in coefficients[1:]:
        value.mul_(z).add_(coefficient)
    return value


def _log(u: Tensor) -> Tensor:
    """log of positive normal float32 numbers, in float64: FDLIBM's reduction and polynomial (e_log.c)."""
    bits = u.view(torch.int32)
    exponent = (bits - _SQRT_HALF).bitwise_right_shift_(23)
    f = (bits - exponent.bitwise_left_shift(23)).view(torch.float32).to(torch.float64).sub_(1.0)
    k, s = exponent.to(torch.float64), f / (2.0 + f)
    z, half = s * s, 0.5 * f * f
    rest = _horner(z, _LOG).mul_(z).add_(half).mul_(s).add_(k * _LN2_LOW)
    return k.mul_(_LN2_HIGH).sub_(half.sub_(rest).sub_(f))


def _sin(x: Tensor) -> Tensor:
    """sin of float64 numbers in [-π/2, π/2]: x + x³ times a minimax polynomial in x², within 2**-60 of it."""
    z = x * x
    return _horner(z, _SIN).mul_(x * z).add_(x)


def _sqrt(x: Tensor) -> Tensor:
    """The nearest number, as IEEE 754 has it; PyTorch's own is a library's on some CPUs, which now and then misses."""
    return x.sqrt() if x.device.type != "cpu" else torch.from_numpy(np.sqrt(x.numpy()))


def box_muller(radius_word: Tensor, angle_word: Tensor) -> tuple[Tensor, Tensor]:
    """A Box-Muller pair in float64.

    With b the exact integer angle, of period 2**32, cos and sin are both the sine of an angle folded into
    [-π/2, π/2] while still an exact integer, so they keep their relative accuracy near their zeros. Logarithm and
    sine are written out in operations that IEEE 754 rounds in one way only, so that every CPU has the same bits:
    mathematical libraries differ in the last one, and between instruction sets.
    """
    radius = _sqrt(_log(_uniform(radius_word)).mul_(-2.0))
    b = angle_word.to(torch.float64)
    cosine = (b - 2.0**31).abs_().sub_(2.0**30)
    sine = b.sub_(2.0**30).abs_().sub_(2.0**31).abs_().sub_(2.0**30)
    return _sin(cosine.mul_(_TURN)).mul_(radius), _sin(sine.mul_(_TURN)).mul_(radius)


def normals(words: Words, wanted: int) -> tuple[Tensor, ...]:
    """Four normals a counter; the second pair is skipped where at most two are wanted."""
    first = box_muller(words[0], words[1])
    return first if wanted <= 2 else (*first, *box_muller(words[2], words[3]))
