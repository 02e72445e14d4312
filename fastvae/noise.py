"""Which Philox stream serves which purpose, so that draws for different purposes never share a counter.

Noise is a function of (seed, row, dimension, stream); see ``fastvae_kernels.sample_normal``. The top 8 bits of the
32-bit stream name the purpose, the low 24 bits the sample or step number. ``Posterior.sample`` and sampled scores serve
the same purpose: with one seed they draw the same z.
"""

from __future__ import annotations

import operator
from typing import Final, SupportsIndex

import numpy as np

from fastvae.errors import InputError

MAX_SAMPLES: Final = 1 << 24

PRIOR: Final = 0 << 24
POSTERIOR: Final = 1 << 24
LIKELIHOOD: Final = 2 << 24
IMPUTE_POSTERIOR: Final = 3 << 24
IMPUTE_LIKELIHOOD: Final = 4 << 24
IMPUTE_CHOICE: Final = 5 << 24
FILL: Final = 6 << 24
# Which component of a mixture; draws for a purpose that is 24 bits up have that number's stream.
COMPONENT: Final = 7 << 24


def component_of(stream: int) -> int:
    """The stream that chooses the components of a mixture for the draws of ``stream``, the first of its purpose."""
    return COMPONENT + (stream >> 24)


def check_seed(seed: int) -> int:
    """``seed``, if it is an unsigned 64-bit integer; InputError otherwise."""
    return _integer(seed, 0, 2**64 - 1, "seed: expected an integer in [0, 2**64)")


def check_count(name: str, value: int, *, least: int = 0, most: int = 2**62) -> int:
    """``value``, if it is an integer in [least, most]; InputError naming the argument otherwise."""
    if type(value) is int and least <= value <= most:  # before any words are made
        return value
    return _integer(value, least, most, f"{name}: expected an integer from {least} to {most}")


def _integer(value: SupportsIndex, least: int, most: int, expected: str) -> int:
    """``value`` as a Python int; NumPy's integers are integers too, booleans are not."""
    if type(value) is int and least <= value <= most:
        return value
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise InputError(f"{expected}, got {value!r:.80}")
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InputError(f"{expected}, got {value!r:.80}") from error
    if not least <= number <= most:
        raise InputError(f"{expected}, got {number}")
    return number
