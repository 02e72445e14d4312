"""Numbers as levels of 255, for bytes."""

# mypy: allow-untyped-defs, allow-untyped-decorators

import triton
import triton.language as tl

__all__ = ["levels", "odd_rows"]

_WHOLE = tl.constexpr(12582912.0)
"""1.5 * 2**23: adding it to a small float32 rounds that to an integer, ties to even."""


@triton.jit
def levels(x, scale, shift):
    """255 (x scale + shift) of float32 x, clamped to [0, 255] and rounded to whole numbers; 0 for NaN."""
    x = x * scale + shift
    x = tl.minimum(tl.where(x > 0, x, 0.0), 1.0) * 255.0
    return (x + _WHOLE) - _WHOLE


@triton.jit
def odd_rows(x, inside):
    """1 for the rows of a tile x that have a NaN `inside`, 0 for others."""
    return tl.max(((x != x) & inside).to(tl.int32), axis=1)
