"""Philox4x32-10 over a grid of counters, in NumPy: the integers of `reference.philox`, several times faster.

Two of the four counter words depend on the row alone and two on the quad of columns alone, and a round keeps it that
way for one more: the first two of the ten rounds work on vectors, and only the third meets the whole grid. NumPy's
integer loops are vectorised, and the grid comes in blocks that stay in a core's cache.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Words", "grid_words"]

U64 = NDArray[np.uint64]
Words = tuple[U64, U64, U64, U64]

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def _keys(seed: int) -> list[tuple[np.uint64, np.uint64]]:
    """The key words of the ten rounds."""
    k0, k1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    return [
        (np.uint64((k0 + i * _WEYL[0]) & 0xFFFFFFFF), np.uint64((k1 + i * _WEYL[1]) & 0xFFFFFFFF)) for i in range(10)
    ]


def grid_words(rows: U64, quads: U64, stream: int, seed: int) -> Words:
    """The output words for counters (row low, row high, quad, stream): each [len(rows), len(quads)], 32 bits in 64.

    rows: 64-bit indices that share their upper half. quads: column // 4. `seed` counts modulo 2**64.
    """
    keys = _keys(seed)
    row_high = rows[:1] >> _HALF
    # Round 1, from c = (row low, row high, quad, stream).
    from_row, from_quad = (rows & _MASK) * _M0, quads * _M1
    c0, c1 = (from_quad >> _HALF) ^ row_high ^ keys[0][0], from_quad & _MASK  # of the quad
    c2, c3 = (from_row >> _HALF) ^ np.uint64(stream) ^ keys[0][1], from_row & _MASK  # of the row
    # Round 2: products are still vectors, and the words c0 and c2 become the exclusive or of one of each.
    from_quad, from_row = c0 * _M0, c2 * _M1
    shape = (len(rows), len(quads))
    a = np.bitwise_xor((from_row >> _HALF)[:, None], (c1 ^ keys[1][0])[None, :])
    c = np.bitwise_xor((c3 ^ keys[1][1])[:, None], (from_quad >> _HALF)[None, :])
    b = np.broadcast_to((from_row & _MASK)[:, None], shape)
    d = np.broadcast_to((from_quad & _MASK)[None, :], shape)
    # Eight rounds on the grid. A low half is masked a round late, when it is combined with what is masked anyway.
    p, q, spare = np.empty(shape, np.uint64), np.empty(shape, np.uint64), [np.empty(shape, np.uint64) for _ in range(2)]
    for k0, k1 in keys[2:]:
        np.multiply(c, _M1, out=p)
        np.multiply(a, _M0, out=q)
        _mix(p, b, k0, a)
        _mix(q, d, k1, c)
        b, p = p, b if b.flags.writeable else spare.pop()
        d, q = q, d if d.flags.writeable else spare.pop()
    b &= _MASK
    d &= _MASK
    return a, b, c, d


def _mix(product: U64, other: U64, key: np.uint64, out: U64) -> None:
    np.right_shift(product, _HALF, out=out)
    np.bitwise_xor(out, other, out=out)
    np.bitwise_xor(out, key, out=out)
    np.bitwise_and(out, _MASK, out=out)
