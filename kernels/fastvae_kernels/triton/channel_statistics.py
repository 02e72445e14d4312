"""`channel_statistics`: each block of an image's pixels is read once, tile by tile, and each tile's deviations squared.

A tile's mean and spread are found in two passes over what is on chip; tiles are merged by Chan's formula, in order. A
mean is two floats throughout, so that one far larger than the spread loses nothing by being rounded.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.rows import fold_sum
from ..layout import output_format
from ..pieces import power_of_2
from ..tuning import NormConfig, config_for
from .gemm import ceil_div
from .images import dense_rows, image_units

__all__ = ["channel_statistics", "channel_statistics_kernel", "launch", "tile_shape", "two_sum"]


@triton.jit
def _tile_moments(x, inside, count):
    """Mean, what rounding it left, and the squared deviations' sum over the `count` rows of x that are `inside`."""
    mean = fold_sum(tl.where(inside, x, 0.0)) / count
    d = tl.where(inside, x - mean[None, :], 0.0)
    rest = fold_sum(d) / count
    d = tl.where(inside, d - rest[None, :], 0.0)
    return mean, rest, fold_sum(d * d)


@triton.jit
def two_sum(a, b):
    """a + b rounded, and what that left."""
    rounded = a + b
    part = rounded - a
    return rounded, (a - (rounded - part)) + (b - part)


@triton.jit(do_not_specialize=["pixel_units", "channel_units", "row_units", "block_units", "blocks", "channel_tiles"])
def channel_statistics_kernel(
    x,
    out,
    pixel_units: tl.int64,
    channel_units: tl.int32,
    row_units: tl.int64,
    block_units: tl.int64,
    blocks: tl.int64,
    channel_tiles: tl.int32,
    CHANNELS_LAST: tl.constexpr,
    UNIT: tl.constexpr,
    NUMBERS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """x [n, pixels, channels] or, unless CHANNELS_LAST, [n, channels, pixels] -> out [n, blocks, channels, NUMBERS].

    Units as of `image_units`. A program takes BLOCK_CHANNELS channels of one block of a row. NUMBERS: 2, or 3 with what
    rounding the mean left.
    """
    pixels = pixel_units if CHANNELS_LAST else pixel_units * UNIT
    channels = channel_units * UNIT if CHANNELS_LAST else channel_units
    block = block_units if CHANNELS_LAST else block_units * UNIT
    tile = tl.program_id(0) % channel_tiles
    row_block = (tl.program_id(0) // channel_tiles).to(tl.int64)
    channel = tile * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    first = row_block % blocks * block
    end = tl.minimum(first + block, pixels)
    at = x + row_block // blocks * (row_units * UNIT)
    mean = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    rest = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    m2 = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    for start in range(first, end, BLOCK_PIXELS):
        pixel = start + tl.arange(0, BLOCK_PIXELS)
        inside = (pixel < end)[:, None] & (channel < channels)[None, :]
        if CHANNELS_LAST:
            from_x = at + (pixel * channels)[:, None] + channel[None, :]
        else:
            from_x = at + (channel * pixels)[None, :] + pixel[:, None]
        entries = tl.load(from_x, mask=inside, other=0.0).to(tl.float32)
        count = tl.minimum(end - start, BLOCK_PIXELS).to(tl.float32)
        tile_mean, tile_rest, tile_m2 = _tile_moments(entries, inside, count)
        before = (start - first).to(tl.float32)
        share = count / (before + count)
        apart = tile_mean - mean
        rests_apart = tile_rest - rest
        d = apart + rests_apart
        m2 += tile_m2 + d * d * (before * share)
        mean, left = two_sum(mean, apart * share)
        rest += rests_apart * share + left
    mean, rest = two_sum(mean, rest)
    to_out = out + (row_block * channels + channel) * NUMBERS
    tl.store(to_out, mean, mask=channel < channels)
    tl.store(to_out + 1, m2, mask=channel < channels)
    if NUMBERS == 3:
        tl.store(to_out + 2, rest, mask=channel < channels)


def tile_shape(channels: int, config: NormConfig) -> tuple[int, int]:
    """Pixels and channels of a program's tile."""
    width = min(power_of_2(channels), config.max_block_channels)
    return config.block_elements // width, width


def launch(x: Tensor, out: Tensor, block: int, *, channels_last: bool, config: NormConfig) -> None:
    """Fill out [n, blocks, c, 2 or 3], contiguous float32, of x [n, c, h, w], whose rows lie in that format."""
    unit, pixels, channels, stride = image_units(x, channels_last, block)
    n, blocks, width, numbers = out.shape
    tile_pixels, tile_channels = tile_shape(width, config)
    if not channels_last and unit < 8:  # entries one by one take registers
        tile_channels //= 2
    tiles = ceil_div(width, tile_channels)
    channel_statistics_kernel[(n * blocks * tiles,)](
        x,
        out,
        pixels,
        channels,
        stride,
        block if channels_last else block // unit,
        blocks,
        tiles,
        CHANNELS_LAST=channels_last,
        UNIT=unit,
        NUMBERS=numbers,
        BLOCK_PIXELS=min(tile_pixels, triton.next_power_of_2(min(block, x.shape[2] * x.shape[3]))),
        BLOCK_CHANNELS=tile_channels,
        num_warps=config.num_warps,
    )


def channel_statistics(x: Tensor, block: int, rest: bool) -> Tensor:
    """As the reference defines it; a row's bits are the same in either memory format."""
    n, channels, h, w = x.shape
    out = torch.empty(n, ceil_div(h * w, block), channels, 3 if rest else 2, dtype=torch.float32, device=x.device)
    if out.numel():
        config = config_for("group_norm", x.device)
        assert isinstance(config, NormConfig)
        channels_last = output_format(x[:1]) == torch.channels_last
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        launch(dense_rows(x, memory_format), out, block, channels_last=channels_last, config=config)
    return out
