"""Splitting rows into internal batches, and into the fixed padded tiles of batch-invariant mode."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Rows of a tile in batch-invariant mode, fewer only where they would take more than BUFFER_BYTES: a matrix product's
# row bits change with its number of rows.
TILE = 128
MAX_ROWS = 4096
# Where PyTorch puts memory of its own on the CPU, in bytes; on the GPU it is more.
ALIGNMENT = 64
# Buffers of one internal batch stay around the size of a last-level cache.
BUFFER_BYTES = 32 * 2**20


def blocks(rows: int, size: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """Consecutive (low, high) ranges of at most ``size`` that cover ``start`` to ``rows``."""
    for low in range(start, rows, size):
        yield low, min(low + size, rows)


def even_part(rows: int, size: int) -> int:
    """How many of ``rows`` to take first, so that few parts of at most ``size``, all of about one size, do them.

    A few rows left over cost more than their share: products of a few rows are slow.
    """
    return -(-rows // -(-rows // size))


def even_parts(rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Consecutive (low, high) ranges that cover ``rows``, as :func:`even_part` cuts them."""
    low = 0
    while low < rows:
        high = low + even_part(rows - low, size)
        yield low, high
        low = high


def shared_part(rows: int, size: int, threads: int) -> int:
    """How many of ``rows`` each part has, so that ``threads`` have as many to do, of at most ``size`` each.

    Whole tiles, where that many are allowed.
    """
    part = math.ceil(rows / (math.ceil(rows / (size * threads)) * threads))
    return min(size, math.ceil(part / TILE) * TILE) if size >= TILE else part


def rows_that_fit(peak_bytes: int) -> int:
    """How many rows of ``peak_bytes`` each make one internal batch: from 1 to MAX_ROWS."""
    return max(1, min(MAX_ROWS, BUFFER_BYTES // max(1, peak_bytes)))


def padded(x: Tensor, rows: int) -> Tensor:
    """``x`` with zero rows appended up to ``rows``, contiguous and aligned in memory whatever ``x`` is.

    It is ``x`` itself where nothing has to be done.
    """
    if len(x) == rows and x.is_contiguous() and x.data_ptr() % ALIGNMENT == 0:
        return x
    tile = torch.zeros(rows, *x.shape[1:], dtype=x.dtype, device=x.device)
    tile[: len(x)] = x
    return tile
