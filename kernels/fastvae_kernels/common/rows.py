"""Row sums whose bits depend on nothing but the row: not on layouts, alignment, or how work is shared out."""

# mypy: allow-untyped-defs, allow-untyped-decorators

import triton
import triton.language as tl

__all__ = ["tree_sum"]


@triton.constexpr_function
def _log2(size):
    return size.bit_length() - 1


@triton.jit
def tree_sum(x):
    """Sums of the rows of x [rows, columns], both powers of two -> [rows], neighbours first, then pairs of pairs.

    tl.sum over all columns adds in an order that depends on how the compiler spread them over threads, which
    depends on the alignment of whatever was loaded. A sum of two has one order only.
    """
    ROWS: tl.constexpr = x.shape[0]
    COLUMNS: tl.constexpr = x.shape[1]
    LEVELS: tl.constexpr = _log2(COLUMNS)
    for level in tl.static_range(LEVELS):
        x = tl.sum(tl.reshape(x, (ROWS, COLUMNS >> (level + 1), 2)), axis=2)
    return tl.reshape(x, (ROWS,))
