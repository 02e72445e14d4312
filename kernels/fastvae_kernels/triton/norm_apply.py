"""`norm_apply`, one pass over an image, and `group_norm`: its statistics, what they mean for each channel, and that."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.activation import activate
from ..layout import empty_output, output_format
from ..tuning import NormConfig, config_for
from .channel_statistics import launch as launch_statistics
from .channel_statistics import tile_shape
from .gemm import NARROW, ceil_div, contiguous, default_alpha
from .images import dense_rows, image_units
from .norm_affine import launch as launch_affine
from .quantize_rows import to_e4m3

__all__ = ["block_of", "group_norm", "launch", "launch_group_norm", "norm_apply", "norm_apply_kernel"]


_SIZES = ["pixel_units", "channel_units", "row_units", "pixel_tiles", "channel_tiles"]


@triton.jit(do_not_specialize=[*_SIZES, "alpha", "out_scale"])
def norm_apply_kernel(
    x,
    affine,
    out,
    pixel_units: tl.int64,
    channel_units: tl.int32,
    row_units: tl.int64,
    pixel_tiles: tl.int64,
    channel_tiles: tl.int32,
    alpha: tl.float32,
    out_scale: tl.float32,
    CHANNELS_LAST: tl.constexpr,
    UNIT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    FAST: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """x and out [n, pixels, channels] or, unless CHANNELS_LAST, [n, channels, pixels]; affine [n, 3, channels].

    Units as of `image_units`; out's rows have no gaps. A program takes BLOCK_PIXELS pixels of BLOCK_CHANNELS channels.
    What goes to an out of e4m3 is divided by out_scale.
    """
    pixels = pixel_units if CHANNELS_LAST else pixel_units * UNIT
    channels = channel_units * UNIT if CHANNELS_LAST else channel_units
    row_tile = (tl.program_id(0) // channel_tiles).to(tl.int64)
    row = row_tile // pixel_tiles
    channel = tl.program_id(0) % channel_tiles * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    pixel = row_tile % pixel_tiles * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    if CHANNELS_LAST:
        within = (pixel * channels)[:, None] + channel[None, :]
    else:
        within = (channel * pixels)[None, :] + pixel[:, None]
    known = channel < channels
    inside = (pixel < pixels)[:, None] & known[None, :]
    of_row = affine + row * 3 * channels + channel
    mean = tl.load(of_row, mask=known, other=0.0)
    scale = tl.load(of_row + channels, mask=known, other=0.0)
    shift = tl.load(of_row + 2 * channels, mask=known, other=0.0)
    y = tl.load(x + row * (row_units * UNIT) + within, mask=inside, other=0.0).to(tl.float32)
    y = activate((y - mean[None, :]) * scale[None, :] + shift[None, :], alpha, ACTIVATION, FAST)
    if out.dtype.element_ty == tl.float8e4nv:
        y = to_e4m3(tl.div_rn(y, out_scale))
    row_length = pixel_units * channel_units * UNIT
    tl.store(out + row * row_length + within, y.to(out.dtype.element_ty), mask=inside)


def launch(
    x: Tensor,
    affine: Tensor,
    out: Tensor,
    activation: str,
    alpha: float | None,
    *,
    out_scale: float | None = None,
    config: NormConfig,
) -> None:
    """Fill out [n, c, h, w], contiguous or channels_last; x: rows of out's format; affine [n, 3, c]: contiguous.

    out_scale: what an out of e4m3 is divided by.
    """
    channels_last = output_format(out) == torch.channels_last
    unit, pixels, channels, stride = image_units(x, channels_last)
    n, width, h, w = out.shape
    tile_pixels, tile_channels = tile_shape(width, config)
    tiles = (ceil_div(h * w, tile_pixels), ceil_div(width, tile_channels))
    norm_apply_kernel[(n * tiles[0] * tiles[1],)](
        x,
        affine,
        out,
        pixels,
        channels,
        stride,
        *tiles,
        default_alpha(activation) if alpha is None else alpha,
        1.0 if out_scale is None else out_scale,
        CHANNELS_LAST=channels_last,
        UNIT=unit,
        ACTIVATION=activation,
        FAST=out.dtype in NARROW,
        BLOCK_PIXELS=tile_pixels,
        BLOCK_CHANNELS=tile_channels,
        num_warps=config.num_warps,
    )


def norm_apply(
    x: Tensor, affine: Tensor, activation: str, alpha: float | None, out_scale: float | None = None
) -> Tensor:
    """As the reference defines it."""
    out = empty_output(x, x.shape, None if out_scale is None else torch.float8_e4m3fn)
    if out.numel():
        config = config_for("group_norm", x.device)
        assert isinstance(config, NormConfig)
        rows = dense_rows(x, output_format(x))
        launch(rows, affine.contiguous(), out, activation, alpha, out_scale=out_scale, config=config)
    return out


def block_of(pixels: int, config: NormConfig) -> int:
    """How many pixels each block has of an image of so many: a number that no other row has a say in."""
    block = config.min_block
    while ceil_div(pixels, block) > config.max_blocks:
        block *= 2
    return block


def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    activation: str,
    alpha: float | None,
    out_scale: float | None = None,
) -> Tensor:
    """As the reference defines it."""
    out = empty_output(x, x.shape, None if out_scale is None else torch.float8_e4m3fn)
    if out.numel():
        config = config_for("group_norm", x.device)
        assert isinstance(config, NormConfig)
        rows = dense_rows(x, output_format(x))
        launch_group_norm(rows, weight, bias, out, groups, eps, activation, alpha, out_scale=out_scale, config=config)
    return out


def launch_group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    groups: int,
    eps: float,
    activation: str,
    alpha: float | None,
    *,
    out_scale: float | None = None,
    config: NormConfig,
) -> None:
    """Fill out [n, c, h, w] as :func:`launch`, in three launches that read x twice; weight, bias: [c] or None."""
    n, channels, h, w = x.shape
    block = block_of(h * w, config)
    statistics = torch.empty(n, ceil_div(h * w, block), channels, 3, dtype=torch.float32, device=x.device)
    affine = statistics.new_empty(n, 3, channels)
    channels_last = output_format(out) == torch.channels_last
    launch_statistics(x, statistics, block, channels_last=channels_last, config=config)
    operands = (statistics, None, contiguous(weight), contiguous(bias), affine)
    launch_affine(*operands, h * w, block, groups, eps, config=config)
    launch(x, affine, out, activation, alpha, out_scale=out_scale, config=config)
