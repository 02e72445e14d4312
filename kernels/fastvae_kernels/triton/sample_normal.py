"""`sample_normal` and `sample_uniform`: one kernel, a constexpr apart."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.noise import normals, uniforms
from ..tuning import SampleConfig, config_for

__all__ = ["launch", "sample_kernel", "sample_normal", "sample_uniform"]


@triton.jit(do_not_specialize=["n", "tiles", "seed", "start", "stream"])
def sample_kernel(
    out,
    n: tl.int64,
    dim: tl.int32,
    quads: tl.int32,
    tiles: tl.int32,
    seed: tl.int64,
    start: tl.int64,
    stream: tl.int64,
    UNIFORM: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out [samples, n, dim]; a program fills BLOCK quads of one sample, counted row by row.

    Quads are found by a 64-bit division for the program and 32-bit ones within it. ALIGNED: dim == 4 quads,
    so that quads follow one another in memory and are stored whole.
    """
    pid = tl.program_id(0)
    sample = pid // tiles
    first = (pid % tiles).to(tl.int64) * BLOCK
    first_row = first // quads
    local = (first - first_row * quads).to(tl.int32) + tl.arange(0, BLOCK)
    row = first_row + local // quads
    quad = local % quads
    counter_row = row + start
    sample = sample.to(tl.int64)
    if UNIFORM:
        values = uniforms(counter_row, quad, seed, sample + stream)
    else:
        values = normals(counter_row, quad, seed, sample + stream)
    if ALIGNED:
        flat = tl.reshape(values, (4 * BLOCK,)).to(out.dtype.element_ty)
        base = (sample * n * quads + first) * 4
        left = (n * quads - first) * 4
        lane = tl.arange(0, 4 * BLOCK)
        tl.store(out + base + lane, flat, mask=lane < left)
    else:
        columns = quad[:, None] * 4 + tl.arange(0, 4)[None, :]
        block = tl.reshape(values, (BLOCK, 4)).to(out.dtype.element_ty)
        pointers = out + (sample * n + row)[:, None] * dim + columns
        tl.store(pointers, block, mask=(row < n)[:, None] & (columns < dim))


def launch(out: Tensor, seed: int, start: int, stream: int, *, uniform: bool, config: SampleConfig) -> None:
    """Fill out [samples, n, dim], contiguous, of float32, bfloat16 or float16."""
    assert out.is_contiguous()
    samples, n, dim = out.shape
    if out.numel() == 0:
        return
    quads = triton.cdiv(dim, 4)
    tiles = triton.cdiv(n * quads, config.block_quads)
    sample_kernel[(tiles * samples,)](
        out,
        n,
        dim,
        quads,
        tiles,
        seed,
        start,
        stream,
        UNIFORM=uniform,
        ALIGNED=dim % 4 == 0,
        BLOCK=config.block_quads,
        num_warps=config.num_warps,
    )


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
    out = torch.empty(1 if samples is None else samples, n, dim, dtype=dtype, device=device)
    config = config_for("sample_normal", device)
    assert isinstance(config, SampleConfig)
    launch(out, seed, start, stream, uniform=uniform, config=config)
    return out.view(n, dim) if samples is None else out


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
    """As the reference defines it, each number within testing.NORMAL_EPSILONS of it."""
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
    """As the reference defines it, bit for bit."""
    return _sample(True, n, dim, seed, start, stream, samples, dtype, device)
