"""Rows of bytes as weighted sums of their words, in the compiled library: what `fastvae.bulk` checks rows by."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .library import library

__all__ = ["add_weighted_words"]


def add_weighted_words(sums: NDArray[np.uint64], rows: NDArray[Any], place: int) -> None:
    """Add to `sums` [n] what the bytes of each of `rows` [n, ...] come to, both without gaps in memory.

    Those of a row, with zeros up to a multiple of 4, are little-endian words w[j], and
    sum over j of c[place + j] w[j] (mod 2**64) is added, with c[j] = mix(2**63 + j) | 1 and `mix` the finaliser of
    SplitMix64. Arguments are not checked, and the compiled library must be there, on a machine whose words are such.
    """
    if rows.size:
        count = len(rows)
        library().fastvae_weighted_words(rows.ctypes.data, count, rows.nbytes // count, place, sums.ctypes.data)
