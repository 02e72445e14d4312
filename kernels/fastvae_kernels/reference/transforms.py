"""From Philox's words to numbers: uniforms, and normals by Box-Muller in float64."""

import math

import torch
from torch import Tensor

from .philox import Words

__all__ = ["box_muller", "normals", "uniform_of", "uniforms"]

_BELOW_ONE = 1.0 - 2.0**-24


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


def box_muller(radius_word: Tensor, angle_word: Tensor) -> tuple[Tensor, Tensor]:
    """A Box-Muller pair in float64.

    With b the exact integer angle, of period 2**32, cos and sin are both the sine of an angle folded into
    [-π/2, π/2] while still an exact integer, so they keep their relative accuracy near their zeros.
    """
    radius = _uniform(radius_word).to(torch.float64).log_().mul_(-2.0).sqrt_()
    b = angle_word.to(torch.float64)
    cosine = (b - 2.0**31).abs_().sub_(2.0**30)
    sine = b.sub_(2.0**30).abs_().sub_(2.0**31).abs_().sub_(2.0**30)
    cosine.mul_(math.pi * 2.0**-31).sin_().mul_(radius)
    sine.mul_(math.pi * 2.0**-31).sin_().mul_(radius)
    return cosine, sine


def normals(words: Words, wanted: int) -> tuple[Tensor, ...]:
    """Four normals a counter; the second pair is skipped where at most two are wanted."""
    first = box_muller(words[0], words[1])
    return first if wanted <= 2 else (*first, *box_muller(words[2], words[3]))
