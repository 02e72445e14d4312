"""Prior samples, kept for the next call where few are asked for.

One row's noise costs about as much as a block's: it is what a call costs, not what numbers do. So a request for a few
rows draws the whole blocks they lie in and keeps them, which makes the rows of a stream of small calls nearly free.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

import fastvae_kernels
from fastvae import noise
from fastvae_kernels.cpu import fill_normal, why_not

# Rows of a kept block, and the most rows and numbers of a row for which blocks are kept: 64 blocks take 4 MiB at most.
BLOCK = 64
MOST_DIM = 256
LAST = 2**62


def prior(rows: int, dim: int, *, seed: int, start: int) -> NDArray[np.float32]:
    """Float32 standard normals (rows, dim) of the indices start to start + rows, on the CPU; to be read only."""
    if not 0 < rows <= BLOCK or dim > MOST_DIM or start + rows > LAST:
        return _drawn(rows, dim, seed, start)
    first, offset = divmod(start, BLOCK)
    block = _block(dim, seed, first)
    if offset + rows <= BLOCK:
        return block[offset : offset + rows]
    return np.concatenate([block[offset:], _block(dim, seed, first + 1)[: offset + rows - BLOCK]])


@lru_cache(maxsize=64)
def _block(dim: int, seed: int, index: int) -> NDArray[np.float32]:
    return _drawn(BLOCK, dim, seed, index * BLOCK)


def _drawn(rows: int, dim: int, seed: int, start: int) -> NDArray[np.float32]:
    z: NDArray[np.float32]
    if why_not() is None and start + rows <= LAST:
        z = np.empty((rows, dim), np.float32)
        fill_normal(z, seed, start, noise.PRIOR)
        return z
    z = fastvae_kernels.sample_normal(rows, dim, seed=seed, start=start, stream=noise.PRIOR).numpy()
    return z
