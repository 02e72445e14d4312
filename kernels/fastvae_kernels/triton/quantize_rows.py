"""`quantize_rows`: the largest of each row, then the row in 8 bits; rows that fit a tile are read once."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..tuning import QuantizeConfig, config_for
from .gemm import row_unit, unit_inner_stride

__all__ = ["block_shape", "launch", "quantize_rows", "quantize_rows_kernel", "to_e4m3"]

_LARGEST = tl.constexpr(448.0)
_TINY = tl.constexpr(1.1754943508222875e-38)
_FLOAT_MAX = tl.constexpr(3.4028234663852886e38)


@triton.jit
def to_e4m3(x):
    """`x` rounded to e4m3, ties to even, saturating at ±448, as a float32 that the cast need not round.

    From 2**-6 on, three bits of mantissa are kept by integer arithmetic; below, adding and subtracting
    1.5 · 2**14 leaves multiples of 2**-9. Zeros keep their sign.
    """
    bits = x.to(tl.uint32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & 0xFFF00000).to(tl.float32, bitcast=True)
    small = ((tl.abs(x) + 24576.0) - 24576.0).to(tl.uint32, bitcast=True)
    small = (small | (bits & 0x80000000)).to(tl.float32, bitcast=True)
    rounded = tl.where(tl.abs(x) < 0.015625, small, normal)
    clamped = tl.where(x > _LARGEST, _LARGEST, tl.where(x < -_LARGEST, -_LARGEST, rounded))
    # A NaN of e4m3's own three bits of mantissa stays one under the cast of Triton's interpreter, which rounds bits.
    nan = ((bits & 0x80000000) | 0x7FF00000).to(tl.float32, bitcast=True)
    return tl.where(x != x, nan, clamped)


@triton.jit
def _largest(tile):
    """The largest magnitude of each row of a tile; a maximum leaves NaN out."""
    return tl.max(tl.abs(tile), axis=1)


@triton.jit
def _scale(largest):
    """max |row| / 448 as a normal number, 1 for zeros."""
    scale = tl.div_rn(largest, _LARGEST)
    scale = tl.where(scale < _TINY, _TINY, tl.where(scale > _FLOAT_MAX, _FLOAT_MAX, scale))
    return tl.where(largest == 0.0, 1.0, scale)


@triton.jit(do_not_specialize=["n", "units", "stride_units"])
def quantize_rows_kernel(
    x,
    q,
    scale,
    n: tl.int64,
    units: tl.int32,
    stride_units: tl.int64,
    UNIT: tl.constexpr,
    SINGLE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """x [n, k] of unit inner stride -> q [n, k] contiguous, scale [n]; k and the stride are in units of UNIT.

    SINGLE: a row is one block, which is kept; otherwise it is read again once its largest is known.
    """
    k = units * UNIT
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_COLUMNS)[None, :]
    from_x = x + (row * stride_units * UNIT)[:, None] + column
    to_q = q + (row * units * UNIT)[:, None] + column
    known = (row < n)[:, None]
    if SINGLE:
        tile = tl.load(from_x, mask=known & (column < k), other=0.0).to(tl.float32)
        by = _scale(_largest(tile))
        tl.store(to_q, to_e4m3(tl.div_rn(tile, by[:, None])).to(q.dtype.element_ty), mask=known & (column < k))
    else:
        largest = tl.zeros((BLOCK_ROWS,), tl.float32)
        for first in range(0, k, BLOCK_COLUMNS):
            tile = tl.load(from_x + first, mask=known & (column < k - first), other=0.0).to(tl.float32)
            largest = tl.maximum(largest, _largest(tile))
        by = _scale(largest)
        for first in range(0, k, BLOCK_COLUMNS):
            mask = known & (column < k - first)
            tile = tl.load(from_x + first, mask=mask, other=0.0).to(tl.float32)
            tl.store(to_q + first, to_e4m3(tl.div_rn(tile, by[:, None])).to(q.dtype.element_ty), mask=mask)
    tl.store(scale + row, by, mask=row < n)


def block_shape(k: int, config: QuantizeConfig) -> tuple[int, int]:
    """Rows and columns of a program's tile: whole rows if they fit."""
    columns = min(max(triton.next_power_of_2(k), 16), config.block_elements)
    return config.block_elements // columns, columns


def launch(x: Tensor, q: Tensor, scale: Tensor, *, config: QuantizeConfig) -> None:
    """Fill q [n, k], contiguous, of float8_e4m3fn and scale [n] of float32; x: any row stride, unit inner stride."""
    n, k = x.shape
    unit = row_unit(k, x.stride(0), largest=16)
    rows, columns = block_shape(k, config)
    quantize_rows_kernel[(triton.cdiv(n, rows),)](
        x,
        q,
        scale,
        n,
        k // unit,
        x.stride(0) // unit,
        UNIT=unit,
        SINGLE=k <= columns,
        BLOCK_ROWS=rows,
        BLOCK_COLUMNS=columns,
        num_warps=config.num_warps,
    )


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """As the reference defines it, bit for bit."""
    q = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    if x.numel() == 0:
        return q, scale.fill_(1.0)
    config = config_for("quantize_rows", x.device)
    assert isinstance(config, QuantizeConfig)
    launch(unit_inner_stride(x), q, scale, config=config)
    return q, scale
