"""Whether rows are what they have to be, told as soon as can be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastvae_kernels.cpu import Values

# Up to so many values one call of BLAS, in one thread, tells sooner than two of NumPy whether all are finite.
FEW_VALUES = 8192
BITS = np.dtype(np.uint32)
# 1.0 in the bits of a float32.
ONE = 0x3F800000


def is_clean(x: NDArray[Any], values: Values) -> bool:
    """Whether the entries of ``x``, float32 in C order and at least one, are ``values``.

    Read as integers, floats from 0 to 1 are those up to ONE; negative ones (-0.0 too), larger ones, infinities and
    NaN are all beyond.
    """
    if values == "unit interval":
        return bool(np.maximum.reduce(x.view(BITS), None) <= ONE)
    if values == "finite":
        # A sum of squares is finite only if every value is; large ones may overflow it and still be finite.
        if x.size <= FEW_VALUES and np.vdot(x, x) < math.inf:
            return True
        return bool(np.minimum.reduce(x, None) > -math.inf and np.maximum.reduce(x, None) < math.inf)
    return True
