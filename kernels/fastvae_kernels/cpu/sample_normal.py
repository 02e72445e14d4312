"""`sample_normal` and `sample_uniform` on CPUs: words by NumPy, the reference's transforms, blocks over threads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ..reference.transforms import normals, uniforms
from .philox import grid_words

__all__ = ["sample_normal", "sample_uniform"]

# Counters at a time: some ten buffers of 64-bit words of this length stay in a core's cache.
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
    w0, w1, w2, w3 = (torch.from_numpy(word.view(np.int64)) for word in words)
    values = uniforms((w0, w1, w2, w3)) if uniform else normals((w0, w1, w2, w3), out.shape[2] - 4 * quad)
    for offset, value in enumerate(values):
        columns = out[sample, row:row_end, 4 * quad + offset : 4 * quad_end : 4]
        value = value[:, : columns.shape[1]]
        columns.copy_(value.to(torch.float32) if out.dtype.itemsize < 4 else value)


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
