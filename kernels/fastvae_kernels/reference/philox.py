"""Philox4x32-10, the counter-based generator behind every random number here.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import torch
from torch import Tensor

__all__ = ["MASK32", "philox4x32", "rounds"]

MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def rounds(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, key: tuple[int, int]) -> Words:
    """The four output words of counters c0..c3 (int64, same shape, in [0, 2**32)), which are overwritten.

    A 32 x 32 bit product wraps in int64 without losing bits, so its halves are a shift and a mask. The low
    half is masked a round late, when it is next combined with something that is masked anyway.
    """
    k0, k1 = key
    low, high = torch.empty_like(c0), torch.empty_like(c0)
    for _ in range(10):
        torch.mul(c2, _MULTIPLIERS[1], out=low)
        torch.mul(c0, _MULTIPLIERS[0], out=high)
        torch.bitwise_right_shift(low, 32, out=c0)
        c0.bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(MASK32)
        torch.bitwise_right_shift(high, 32, out=c2)
        c2.bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(MASK32)
        c1, low = low, c1
        c3, high = high, c3
        k0, k1 = (k0 + _WEYL[0]) & MASK32, (k1 + _WEYL[1]) & MASK32
    return c0, c1.bitwise_and_(MASK32), c2, c3.bitwise_and_(MASK32)


def philox4x32(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Ten rounds of Philox4x32: counter [..., 4] of int64 in [0, 2**32) and two 32-bit key words -> [..., 4]."""
    c0, c1, c2, c3 = (word.clone() for word in counter.unbind(-1))
    return torch.stack(rounds(c0, c1, c2, c3, key), dim=-1)
