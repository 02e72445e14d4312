"""Philox4x32-10 over a grid of counters, in NumPy: the integers of `reference.philox`.

Three of the four counter words depend on the row alone and one on the quad of columns alone, and a round keeps it that
way for one more: the first two of the ten rounds work on vectors, and only the third meets the whole grid. There, the
two words that are multiplied are one array, and so are the two that are not: five calls a round, however few the rows.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["grid_words"]

U64 = NDArray[np.uint64]

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_FACTORS = np.array([_M0, _M1])[:, None, None]
# What is added to the key, by round and word.
_KEY_STEPS = np.arange(10, dtype=np.uint64)[:, None] * np.array([0x9E3779B9, 0xBB67AE85], np.uint64)


def grid_words(rows: U64, quads: U64, streams: U64, seed: int) -> tuple[U64, U64]:
    """The output words for counters (row low, row high, quad, stream): 0 and 2, 1 and 3; 32 bits in 64.

    Each is [2, len(rows), len(quads)]. rows: 64-bit indices that share their upper half. quads: column // 4. streams:
    one for each row, or [1]. `seed` counts modulo 2**64.
    """
    keys = (np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], np.uint64) + _KEY_STEPS) & _MASK
    row_high = rows[:1] >> _HALF
    # Round 1, from c = (row low, row high, quad, stream).
    from_row, from_quad = (rows & _MASK) * _M0, quads * _M1
    c0, c1 = (from_quad >> _HALF) ^ row_high ^ keys[0, 0], from_quad & _MASK  # of the quad
    c2, c3 = (from_row >> _HALF) ^ streams ^ keys[0, 1], from_row & _MASK  # of the row
    # Round 2: products are still vectors, and the words 0 and 2 become the exclusive or of one of each.
    from_quad, from_row = c0 * _M0, c2 * _M1
    even, odd, product = np.empty((3, 2, len(rows), len(quads)), np.uint64)
    np.bitwise_xor((from_row >> _HALF)[:, None], c1 ^ keys[1, 0], out=even[0])
    np.bitwise_xor((c3 ^ keys[1, 1])[:, None], from_quad >> _HALF, out=even[1])
    odd[0], odd[1] = (from_row & _MASK)[:, None], from_quad & _MASK
    # Eight rounds on the grid. Low halves are masked a round late, when they are combined with what is masked anyway.
    for key in keys[2:, :, None, None]:
        np.multiply(even, _FACTORS, out=product)
        swapped = product[::-1]
        np.right_shift(swapped, _HALF, out=even)
        np.bitwise_xor(even, odd, out=even)
        np.bitwise_xor(even, key, out=even)
        np.bitwise_and(even, _MASK, out=even)
        odd, product = swapped, odd
    return even, odd & _MASK
