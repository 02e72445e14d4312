"""Defines `sample_normal` and `sample_uniform`: noise as a function of (seed, row, dimension, stream).

The counter of a block of four dimensions is (i low, i high, block, stream + k) for row i and sample k; its
four words become four uniforms, or two Box-Muller pairs. The transform runs in float64 and is rounded to
float32, then to the output's dtype, so neither chunking nor a vector library's last bit can show.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .philox import MASK32, Words, rounds
from .transforms import normals, uniforms

__all__ = ["sample_normal", "sample_uniform"]

_CHUNK = 16384  # counters at a time: six int64 buffers of this length stay in a core's cache


def _blocks(lanes: int, quads: int) -> Iterator[tuple[int, int, int, int]]:
    """Rectangles of at most _CHUNK counters covering lanes x quads, as (lane, lane end, quad, quad end)."""
    quad_step = min(quads, _CHUNK)
    lane_step = _CHUNK // quad_step
    for lane in range(0, lanes, lane_step):
        for quad in range(0, quads, quad_step):
            yield lane, min(lane + lane_step, lanes), quad, min(quad + quad_step, quads)


def _words(lanes: Tensor, quads: Tensor, n: int, seed: int, start: int, stream: int) -> Words:
    """Philox words for lanes [l] (lane = k * n + row) and quads [q], each word of shape [l * q]."""
    shape = (lanes.numel(), quads.numel())
    row = lanes % n + start
    sample = lanes // n + stream
    counters = (row & MASK32, row >> 32, None, sample)
    c0, c1, c2, c3 = ((quads if c is None else c[:, None]).expand(shape).contiguous().view(-1) for c in counters)
    return rounds(c0, c1, c2, c3, (seed & MASK32, (seed >> 32) & MASK32))


def _sample(
    uniform: bool,
    n: int,
    dim: int,
    seed: int,
    start: int,
    stream: int,
    samples: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    lanes, quads = n * (1 if samples is None else samples), -(-dim // 4)
    out = torch.empty(lanes, dim, dtype=dtype, device=device)
    if out.numel():
        for lane, lane_end, quad, quad_end in _blocks(lanes, quads):
            lane_ids = torch.arange(lane, lane_end, device=device)
            quad_ids = torch.arange(quad, quad_end, device=device)
            words = _words(lane_ids, quad_ids, n, seed, start, stream)
            values = uniforms(words) if uniform else normals(words, dim - 4 * quad)
            for offset, value in enumerate(values):
                columns = out[lane:lane_end, 4 * quad + offset : 4 * quad_end : 4]
                value = value.view(lane_end - lane, -1)[:, : columns.shape[1]]
                columns.copy_(value.to(torch.float32) if dtype.itemsize < 4 else value)
    return out if samples is None else out.view(samples, n, dim)


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
    """Standard normals [n, dim], or [samples, n, dim]; `seed` counts modulo 2**64."""
    return _sample(False, n, dim, seed, start, stream, samples, dtype, device)


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
    """Uniforms in (0, 1), [n, dim] or [samples, n, dim]: at most 1 - 2**-24 before rounding to `dtype`."""
    return _sample(True, n, dim, seed, start, stream, samples, dtype, device)
