"""Row sums whose bits depend on nothing but the row: not on layouts, alignment, or how work is shared out."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl

from .posterior import kl_term

__all__ = ["fold_sum", "halved_rows_sum", "row_divergence", "tree_sum", "tree_sum_blocks"]


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


@triton.jit
def tree_sum_blocks(x, BLOCK: tl.constexpr):
    """Sums of every BLOCK rows of x [rows, columns] -> [rows / BLOCK, columns]; as `tree_sum`, all powers of two."""
    ROWS: tl.constexpr = x.shape[0]
    COLUMNS: tl.constexpr = x.shape[1]
    LEVELS: tl.constexpr = _log2(BLOCK)
    for level in tl.static_range(LEVELS):
        x = tl.sum(tl.reshape(x, (ROWS >> (level + 1), 2, COLUMNS)), axis=1)
    return x


@triton.jit
def fold_sum(x):
    """Sums of the columns of x [rows, columns], rows a power of two -> [columns], one half of the rows onto the other.

    One order, as of `tree_sum`, and the first of its sums are of numbers that one thread holds.
    """
    ROWS: tl.constexpr = x.shape[0]
    COLUMNS: tl.constexpr = x.shape[1]
    LEVELS: tl.constexpr = _log2(ROWS)
    for level in tl.static_range(LEVELS):
        x = tl.sum(tl.reshape(x, (2, ROWS >> (level + 1), COLUMNS)), axis=0)
    return tl.reshape(x, (COLUMNS,))


@triton.jit
def halved_rows_sum(x):
    """Sums of the rows of x [rows, columns], columns a power of two -> [rows], as `fold_sum` adds up columns."""
    ROWS: tl.constexpr = x.shape[0]
    COLUMNS: tl.constexpr = x.shape[1]
    LEVELS: tl.constexpr = _log2(COLUMNS)
    for level in tl.static_range(LEVELS):
        x = tl.sum(tl.reshape(x, (ROWS, 2, COLUMNS >> (level + 1))), axis=1)
    return tl.reshape(x, (ROWS,))


@triton.jit
def row_divergence(
    row, shape, posterior, units, UNIT: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_LATENT: tl.constexpr
):
    """Sums of kl_term over the posteriors of rows `row` % n: row, int64 [BLOCK_ROWS] -> [BLOCK_ROWS].

    shape is (rows, n); posterior, (mean, logvar), both [n, latent]; units, (latent, row stride of mean, row stride of
    logvar) in UNIT elements. The order of a sum depends on latent and BLOCK_LATENT alone.
    """
    rows, n = shape
    mean, logvar = posterior
    latent_units, mean_units, logvar_units = units
    latent = latent_units * UNIT
    data_row = row % n
    acc = tl.zeros((BLOCK_ROWS, BLOCK_LATENT), tl.float32)
    for first in range(0, latent, BLOCK_LATENT):
        column = first + tl.arange(0, BLOCK_LATENT)
        inside = (row < tl.maximum(rows, n))[:, None] & (column < latent)[None, :]
        at_mean = mean + (data_row * mean_units * UNIT)[:, None] + column[None, :]
        at_logvar = logvar + (data_row * logvar_units * UNIT)[:, None] + column[None, :]
        m = tl.load(at_mean, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(at_logvar, mask=inside, other=0.0).to(tl.float32)
        acc += tl.where(inside, kl_term(m, v), 0.0)
    return tree_sum(acc)
