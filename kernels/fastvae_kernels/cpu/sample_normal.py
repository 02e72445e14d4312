"""`sample_normal` and `sample_uniform` on CPUs: words by NumPy, the reference's transforms, blocks over threads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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


@dataclass(frozen=True)
class _Lanes:
    """Samples of consecutive rows as the rows of `out`: lane `k * rows + i` is sample `k` of row `start + i`.

    All rows share the upper half of their index.
    """

    out: Tensor
    rows: int
    start: int
    stream: int


# lane, end of lanes, quad, end of quads
_Block = tuple[int, int, int, int]


def _lanes(out: Tensor, start: int, stream: int) -> Iterator[_Lanes]:
    """`out` [samples, n, dim] as lanes: all at once, unless the upper half of an index changes in between."""
    samples, n, dim = out.shape
    if start % _ROW_HIGH + n <= _ROW_HIGH:
        yield _Lanes(out.view(samples * n, dim), n, start, stream)
        return
    for sample in range(samples):
        row = 0
        while row < n:
            end = min(n, row + _ROW_HIGH - (start + row) % _ROW_HIGH)
            yield _Lanes(out[sample, row:end], end - row, start + row, stream + sample)
            row = end


def _blocks(lanes: int, quads: int) -> Iterator[_Block]:
    """Rectangles of at most _BLOCK counters."""
    quad_step = min(quads, _BLOCK)
    lane_step = _BLOCK // quad_step
    for lane in range(0, lanes, lane_step):
        for quad in range(0, quads, quad_step):
            yield lane, min(lane + lane_step, lanes), quad, min(quad + quad_step, quads)


def _fill(lanes: _Lanes, block: _Block, uniform: bool, seed: int) -> None:
    """The numbers of one block, into its lanes."""
    lane, lane_end, quad, quad_end = block
    sample, row = np.divmod(np.arange(lane, lane_end, dtype=np.uint64), np.uint64(lanes.rows))
    rows, streams = row + np.uint64(lanes.start), sample + np.uint64(lanes.stream)
    words = grid_words(rows, np.arange(quad, quad_end, dtype=np.uint64), streams, seed)
    dim = lanes.out.shape[1]
    pairs = 1 if dim - 4 * quad <= 2 else 2
    even, odd = (torch.from_numpy(word.view(np.int64))[:pairs] for word in words)
    values = (uniform_of(even), uniform_of(odd)) if uniform else box_muller(even, odd)
    columns = lanes.out[lane:lane_end, 4 * quad : 4 * quad_end]
    whole = columns.shape[1] % 4 == 0 and columns.dtype.itemsize >= 4
    dtype = columns.dtype if columns.dtype.itemsize >= 4 else torch.float32
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
        work = [
            (lanes, block) for lanes in _lanes(out, start, stream) for block in _blocks(len(lanes.out), -(-dim // 4))
        ]
        threads = min(torch.get_num_threads(), len(work) // _BLOCKS_PER_THREAD)
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:  # not kept: a pool's threads do not survive a fork
                list(pool.map(lambda part: _fill(part[0], part[1], uniform, seed), work))
        else:
            for lanes, block in work:
                _fill(lanes, block, uniform, seed)
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
