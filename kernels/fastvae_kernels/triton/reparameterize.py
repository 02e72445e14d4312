"""`reparameterize` in one pass: noise, exp, multiply-add and the KL row reduction on chip."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.noise import normals
from ..common.posterior import kl_term, std_from_logvar
from ..common.rows import tree_sum
from ..tuning import ReparameterizeConfig, config_for

__all__ = ["block_shape", "launch", "reparameterize", "reparameterize_kernel", "row_unit"]


@triton.jit(do_not_specialize=["n", "samples", "seed", "start", "stream"])
def reparameterize_kernel(
    mean,
    logvar,
    z,
    kl,
    n: tl.int64,
    units: tl.int32,
    mean_stride: tl.int64,
    logvar_stride: tl.int64,
    samples: tl.int64,
    seed: tl.int64,
    start: tl.int64,
    stream: tl.int64,
    UNIT: tl.constexpr,
    SAMPLES_PER_PROGRAM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
):
    """mean, logvar [n, dim] of unit inner stride -> z [samples, n, dim] contiguous, kl [n].

    dim and the row strides are given in units of UNIT elements, so that the compiler can see how far rows
    are aligned. A program holds BLOCK_ROWS rows, and of them BLOCK_DIMS columns at a time, for all of its
    samples; the programs of the first samples also write kl.
    """
    dim = units * UNIT
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    first_sample = tl.program_id(1).to(tl.int64) * SAMPLES_PER_PROGRAM
    count = tl.minimum(samples - first_sample, SAMPLES_PER_PROGRAM).to(tl.int32)
    first_stream = first_sample + stream
    counter_row = (row + start)[:, None]
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    for column in range(0, dim, BLOCK_DIMS):
        columns = column + tl.arange(0, BLOCK_DIMS)
        mask = (row < n)[:, None] & (columns < dim)[None, :]
        at_mean = mean + (row * mean_stride * UNIT)[:, None] + columns[None, :]
        at_logvar = logvar + (row * logvar_stride * UNIT)[:, None] + columns[None, :]
        m = tl.load(at_mean, mask=mask, other=0.0).to(tl.float32)
        v = tl.load(at_logvar, mask=mask, other=0.0).to(tl.float32)
        total += tree_sum(kl_term(m, v))
        std = std_from_logvar(v)
        quad = (column // 4 + tl.arange(0, BLOCK_DIMS // 4))[None, :]
        for index in range(count):
            noise = normals(counter_row, quad, seed, first_stream + index)
            draw = tl.fma(std, tl.reshape(noise, (BLOCK_ROWS, BLOCK_DIMS)), m)
            z_row = (first_sample + index) * n + row
            at_z = z + (z_row * units * UNIT)[:, None] + columns[None, :]
            tl.store(at_z, draw.to(z.dtype.element_ty), mask=mask)
    if tl.program_id(1) == 0:
        tl.store(kl + row, total, mask=row < n)


def row_unit(dim: int, *strides: int) -> int:
    """The largest of 8, 4, 2 and 1 that divides a row's length and every row stride."""
    return next(unit for unit in (8, 4, 2, 1) if all(size % unit == 0 for size in (dim, *strides)))


def block_shape(dim: int, config: ReparameterizeConfig) -> tuple[int, int]:
    """Rows and columns of a program's tile: whole rows if they fit, in blocks of a power of two from 4."""
    dims = min(max(triton.next_power_of_2(dim), 4), config.max_block_dims)
    return config.block_elements // dims, dims


def launch(
    mean: Tensor,
    logvar: Tensor,
    z: Tensor,
    kl: Tensor,
    seed: int,
    start: int,
    stream: int,
    *,
    config: ReparameterizeConfig,
) -> None:
    """Fill z [samples, n, dim], contiguous, of mean's dtype, and kl [n] of float32.

    mean, logvar: [n, dim], any row stride, unit inner stride.
    """
    assert z.is_contiguous()
    samples, n, dim = z.shape
    unit = row_unit(dim, mean.stride(0), logvar.stride(0))
    rows, dims = block_shape(dim, config)
    grid = (triton.cdiv(n, rows), max(triton.cdiv(samples, config.samples_per_program), 1))
    reparameterize_kernel[grid](
        mean,
        logvar,
        z,
        kl,
        n,
        dim // unit,
        mean.stride(0) // unit,
        logvar.stride(0) // unit,
        samples,
        seed,
        start,
        stream,
        UNIT=unit,
        SAMPLES_PER_PROGRAM=config.samples_per_program,
        BLOCK_ROWS=rows,
        BLOCK_DIMS=dims,
        num_warps=config.num_warps,
    )


def _unit_inner_stride(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def reparameterize(
    mean: Tensor, logvar: Tensor, seed: int, start: int, stream: int, samples: int | None
) -> tuple[Tensor, Tensor]:
    """As the reference defines it, with each normal within testing.NORMAL_EPSILONS of it."""
    n, dim = mean.shape
    z = torch.empty(1 if samples is None else samples, n, dim, dtype=mean.dtype, device=mean.device)
    kl = torch.empty(n, dtype=torch.float32, device=mean.device)
    config = config_for("reparameterize", mean.device)
    assert isinstance(config, ReparameterizeConfig)
    if mean.numel():
        mean, logvar = _unit_inner_stride(mean), _unit_inner_stride(logvar)
        launch(mean, logvar, z, kl, seed, start, stream, config=config)
    else:
        kl.zero_()
    return (z[0] if samples is None else z), kl
