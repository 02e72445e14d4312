"""`sample_normal` and `sample_uniform` on CPUs: words by NumPy, the reference's transforms, blocks over threads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ..reference.transforms import box_muller, uniform_of
from .philox import grid_words

__all__ = ["sample_normal", "sample_uniform"]

# Counters at a time: their six 64-bit words stay in a core's cache.
_BLOCK = 8192
# Fewer blocks than this are not worth starting threads for.
_BLOCKS_PER_THREAD = 4
_ROW_HIGH = 1 << 32

# sample, row, end of rows, quad, end of quads
_Block = tuple[int, int, int, int, int]


def _blocks(samples: int, n: int, quads: int, start: int) -> Iterator[_Block]:
    """Rectangles of at most _BLOCK counters, whose rows share the upper half of their index."""
    quad_step = min(quads, _BLOCK)
    row_step = _BLOCK // quad_step
    for sample in range(samples):
        row = 0
        while row < n:
            end = min(row + row_step, n, row + _ROW_HIGH - (start + row) % _ROW_HIGH)
            for quad in range(0, quads, quad_step):
                yield sample, row, end, quad, min(quad + quad_step, quads)
            row = end


def _fill(out: Tensor, block: _Block, uniform: bool, seed: int, start: int, stream: int) -> None:
    """The numbers of one block, into `out` [samples, n, dim]."""
    sample, row, row_end, quad, quad_end = block
    rows = np.arange(start + row, start + row_end, dtype=np.uint64)
    words = grid_words(rows, np.arange(quad, quad_end, dtype=np.uint64), stream + sample, seed)
    pairs = 1 if out.shape[2] - 4 * quad <= 2 else 2
    even, odd = (torch.from_numpy(word.view(np.int64))[:pairs] for word in words)
    values = (uniform_of(even), uniform_of(odd)) if uniform else box_muller(even, odd)
    columns = out[sample, row:row_end, 4 * quad : 4 * quad_end]
    whole = columns.shape[1] % 4 == 0 and out.dtype.itemsize >= 4
    dtype = out.dtype if out.dtype.itemsize >= 4 else torch.float32
    filled = columns if whole else torch.empty(len(rows), 4 * (quad_end - quad), dtype=dtype)
    by_pair = filled.view(len(rows), -1, 2, 2).permute(3, 2, 0, 1)[:, :pairs]
    for part, value in zip(by_pair, values, strict=True):
        part.copy_(value)
    if not whole:
        columns.copy_(filled[:, : columns.shape[1]])


def _sample(
    uniform: bool, n: int, dim: int, seed: int, start: int, stream: int, samples: int | None, dtype: torch.dtype
) -> Tensor:
    out = torch.empty(1 if samples is None else samples, n, dim, dtype=dtype)
    if out.numel():
        blocks = list(_blocks(len(out), n, -(-dim // 4), start))
        threads = min(torch.get_num_threads(), len(blocks) // _BLOCKS_PER_THREAD)
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:  # not kept: a pool's threads do not survive a fork
                list(pool.map(lambda block: _fill(out, block, uniform, seed, start, stream), blocks))
        else:
            for block in blocks:
                _fill(out, block, uniform, seed, start, stream)
    return out[0] if samples is None else out


def sample_normal(
    n: int,
    dim: int,
    seed: int,
    start: int,
    stream: int,
    samples: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Standard normals [n, dim], or [samples, n, dim]; `seed` counts modulo 2**64; `device` is the CPU."""
    return _sample(False, n, dim, seed, start, stream, samples, dtype)


def sample_uniform(
    n: int,
    dim: int,
    seed: int,
    start: int,
    stream: int,
    samples: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Uniforms in (0, 1), [n, dim] or [samples, n, dim]; `device` is the CPU."""
    return _sample(True, n, dim, seed, start, stream, samples, dtype)
