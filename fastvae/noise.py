"""Which Philox stream serves which purpose, so that no two draws of one seed ever share a counter.

Noise is a function of (seed, row, dimension, stream); see ``fastvae_kernels.sample_normal``. The top 8 bits of the
32-bit stream name the purpose, the low 24 bits the sample or step number.
"""

from __future__ import annotations

from typing import Final

from fastvae.errors import InputError

MAX_SAMPLES: Final = 1 << 24

PRIOR: Final = 0 << 24
POSTERIOR: Final = 1 << 24
LIKELIHOOD: Final = 2 << 24
IMPUTE_POSTERIOR: Final = 3 << 24
IMPUTE_LIKELIHOOD: Final = 4 << 24
IMPUTE_CHOICE: Final = 5 << 24


def check_seed(seed: int) -> int:
    """``seed``, if it is an unsigned 64-bit integer; InputError otherwise."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise InputError(f"seed: expected an integer in [0, 2**64), got {seed!r}")
    return seed


def check_count(name: str, value: int, *, least: int = 0, most: int = 2**62) -> int:
    """``value``, if it is an integer in [least, most]; InputError naming the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name}: expected an integer from {least} to {most}, got {value!r}")
    return value
