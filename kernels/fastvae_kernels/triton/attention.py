"""`attention` with the scores on chip: key block by key block, under the largest score so far.

What was summed under an earlier largest is scaled down when a larger one comes. One program goes through all keys for
its queries and its part of the values' channels, in one order: there is no split over keys and no atomic.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..attention_tiling import AttentionConfig, attention_config
from ..common.elementary import exp
from ..common.rows import halved_rows_sum
from ..layout import empty_output, output_format
from ..tiling import precision_key
from .gemm import NARROW, Operands, ceil_div, dot, row_unit, rows_of, unit_inner_stride

__all__ = ["attention", "attention_kernel", "launch"]

_LOG2_E = 1.4426950408889634


@triton.jit
def _power(x, FAST: tl.constexpr):
    """2**x by the hardware if FAST, else exp(x): scores come in the units of one or the other."""
    return tl.exp2(x) if FAST else exp(x)


_SIZES = ["queries", "keys", "channel_units", "value_units", "heads", "query_tiles", "parts"]
_STRIDES = [f"{name}_{of}" for name in ("q", "k", "v") for of in ("row", "pixel")]


@triton.jit(do_not_specialize=[*_SIZES, *_STRIDES, "scale"])
def attention_kernel(
    q,
    k,
    v,
    out,
    queries: tl.int64,
    keys: tl.int64,
    channel_units: tl.int32,
    value_units: tl.int32,
    heads: tl.int32,
    query_tiles: tl.int32,
    parts: tl.int32,
    q_row: tl.int64,
    q_pixel: tl.int64,
    k_row: tl.int64,
    k_pixel: tl.int64,
    v_row: tl.int64,
    v_pixel: tl.int64,
    scale: tl.float32,
    OPERANDS: tl.constexpr,
    VALUE_UNIT: tl.constexpr,
    FAST: tl.constexpr,
    WHOLE: tl.constexpr,
    TILE: tl.constexpr,
):
    """q [n, queries, heads channels], k [n, keys, heads channels], v [n, keys, heads values] -> out as q, values wide.

    channels, and q's and k's strides, are in units of OPERANDS.unit, values and v's strides of VALUE_UNIT; out has no
    gaps. TILE: queries, keys, channels and values of a step. WHOLE: the step's channels are all; queries then stay on
    chip. scale: what a product is multiplied with, for 2**x if FAST, else for exp.
    """
    QUERIES: tl.constexpr = TILE[0]
    KEYS: tl.constexpr = TILE[1]
    CHANNELS: tl.constexpr = TILE[2]
    VALUES: tl.constexpr = TILE[3]
    UNIT: tl.constexpr = OPERANDS[0]
    EVEN: tl.constexpr = OPERANDS[1]
    channels = channel_units * UNIT
    values = value_units * VALUE_UNIT
    tile = tl.program_id(0) // parts
    first_query = (tile % query_tiles).to(tl.int64) * QUERIES
    head = tile // query_tiles % heads
    row = (tile // query_tiles // heads).to(tl.int64)
    at = tl.arange(0, CHANNELS)[None, :]
    value = tl.program_id(0) % parts * VALUES + tl.arange(0, VALUES)
    of_q = rows_of(q + row * q_row * UNIT + head * channels, first_query, queries, q_pixel * UNIT, QUERIES)
    head_k = k + row * k_row * UNIT + head * channels
    head_v = v + row * v_row * VALUE_UNIT + head * values + value[None, :]
    if WHOLE:
        query = tl.load(of_q + at) if EVEN else tl.load(of_q + at, mask=at < channels, other=0.0)
    largest = tl.full((QUERIES,), -float("inf"), tl.float32)
    weights = tl.zeros((QUERIES,), tl.float32)
    acc = tl.zeros((QUERIES, VALUES), tl.float32)
    for first in range(0, keys, KEYS):
        of_k = rows_of(head_k, first, keys, k_pixel * UNIT, KEYS)
        scores = tl.zeros((QUERIES, KEYS), tl.float32)
        if WHOLE:
            key = tl.load(of_k + at) if EVEN else tl.load(of_k + at, mask=at < channels, other=0.0)
            scores = dot(query, key, scores, OPERANDS)
        else:
            for c in range(0, channels, CHANNELS):
                query = tl.load(of_q + (c + at), mask=at < channels - c, other=0.0)
                key = tl.load(of_k + (c + at), mask=at < channels - c, other=0.0)
                scores = dot(query, key, scores, OPERANDS)
        index = first + tl.arange(0, KEYS).to(tl.int64)
        scores = tl.where((index < keys)[None, :], scores * scale, -float("inf"))
        above = tl.maximum(largest, tl.max(scores, axis=1))
        weight = tl.where((index < keys)[None, :], _power(scores - above[:, None], FAST), 0.0)
        weight = weight.to(v.dtype.element_ty)
        faded = _power(largest - above, FAST)
        weights = weights * faded + halved_rows_sum(weight.to(tl.float32))
        known = (index < keys)[:, None] & (value < values)[None, :]
        chosen = tl.load(head_v + (index * v_pixel * VALUE_UNIT)[:, None], mask=known, other=0.0)
        acc = dot(weight, tl.trans(chosen), acc * faded[:, None], OPERANDS)
        largest = above
    query_index = first_query + tl.arange(0, QUERIES).to(tl.int64)
    to_out = out + ((row * queries + query_index) * heads * values)[:, None] + (head * values + value)[None, :]
    inside = (query_index < queries)[:, None] & (value < values)[None, :]
    tl.store(to_out, (acc / weights[:, None]).to(out.dtype.element_ty), mask=inside)


def launch(q: Tensor, k: Tensor, v: Tensor, out: Tensor, heads: int, *, config: AttentionConfig) -> None:
    """Fill out [n, queries, e], contiguous; q [n, queries, c], k [n, keys, c], v [n, keys, e]: unit inner stride."""
    n, queries, _ = out.shape
    keys, channels, values = k.shape[1], k.shape[2] // heads, v.shape[2] // heads
    unit = row_unit(channels, *q.stride()[:2], *k.stride()[:2])
    value_unit = row_unit(values, *v.stride()[:2])
    tile = config.tile(channels, values)
    tiles, parts = ceil_div(queries, tile[0]), ceil_div(values, tile[3])
    fast = q.dtype in NARROW
    layout = Operands(
        unit=unit,
        even=channels == tile[2],
        precision="ieee",
        promote=0,
        widen=q.device.type == "cpu" and q.dtype == torch.bfloat16,
    )
    attention_kernel[(n * heads * tiles * parts,)](
        q,
        k,
        v,
        out,
        queries,
        keys,
        channels // unit,
        values // value_unit,
        heads,
        tiles,
        parts,
        *(stride // unit for x in (q, k) for stride in x.stride()[:2]),
        *(stride // value_unit for stride in v.stride()[:2]),
        channels**-0.5 * (_LOG2_E if fast else 1.0),
        OPERANDS=tuple(layout),
        VALUE_UNIT=value_unit,
        FAST=fast,
        WHOLE=channels <= tile[2],
        TILE=tile,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def _pixels(x: Tensor) -> Tensor:
    """[n, c, h, w] as [n, h*w, c] of unit inner stride: a view of channels_last images or slices of their channels."""
    return unit_inner_stride(x.flatten(2).mT)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """As the reference defines it, but for weights of 16-bit dtypes, which are rounded before they meet the values."""
    n, values, h, w = (q.shape[0], v.shape[1], *q.shape[2:])
    out = empty_output(q, (n, values, h, w))
    if out.numel():
        precision = precision_key(q.dtype, "ieee")
        config = attention_config(q.shape[1] // heads, values // heads, precision, q.device)
        last = output_format(out) == torch.channels_last
        flat = out.permute(0, 2, 3, 1).view(n, h * w, values) if last else q.new_empty(n, h * w, values)
        launch(_pixels(q), _pixels(k), _pixels(v), flat, heads, config=config)
        if not last:
            out.view(n, values, h * w).copy_(flat.mT)
    return out
