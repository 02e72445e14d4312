"""The kernel behind `conv2d` and `conv_transpose2d`: an implicit matrix product over images with channels innermost.

A row of the product is an output pixel, a column an output channel, and what is summed over is the window's taps and,
within each, the input's channels. A transposed convolution of stride s is s x s plain ones, its phases: those outputs
whose place leaves the same remainder see the same taps. All phases are one launch, side by side, since neighbours read
the same pixels.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl

from ..common.activation import activate
from ..common.rows import tree_sum_blocks
from .gemm import dot, tile_origin
from .window import phase_of

__all__ = ["convolution_kernel"]


@triton.jit
def _inside(y, x, size):
    height, width = size
    return (y >= 0) & (y < height) & (x >= 0) & (x < width)


@triton.jit
def _product(
    x, weight, top, left, first_column, size, channels, pixel_stride, outputs, vertical, horizontal,
    WINDOW: tl.constexpr, OPERANDS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The window's products as a float32 tile [TILE[0], TILE[1]]: pixels times output channels.

    x points, for each pixel, at what its first tap reads, at row `top` and column `left` of its image, which may lie
    outside: there it counts as zeros. weight [outputs, kernel height, kernel width, channels]. vertical and
    horizontal: (first tap, number of taps). With OPERANDS.even a step's inputs are all of one tap, else a step goes
    over taps and channels as they come.
    """
    EVEN: tl.constexpr = OPERANDS[1]
    ACROSS: tl.constexpr = WINDOW[1][0]
    DOWN_BY: tl.constexpr = WINDOW[0][3]
    ACROSS_BY: tl.constexpr = WINDOW[1][3]
    DOWN_TAPS: tl.constexpr = WINDOW[0][5]
    ACROSS_TAPS: tl.constexpr = WINDOW[1][5]
    BLOCK_INPUTS: tl.constexpr = TILE[2]
    width = size[1]
    column = tl.minimum(first_column + tl.arange(0, TILE[1]), outputs - 1)
    taps = WINDOW[0][0] * ACROSS
    of_weight = weight + (column.to(tl.int64) * (taps * channels))[:, None]
    at = tl.arange(0, BLOCK_INPUTS)
    acc = tl.zeros((TILE[0], TILE[1]), tl.float32)
    inputs = vertical[1] * horizontal[1] * channels
    for k in range(0, inputs, BLOCK_INPUTS):
        if EVEN:
            tap = k // channels
            down = tap // horizontal[1]
            across = tap - down * horizontal[1]
            channel = k - tap * channels
            known = _inside(top + down * DOWN_BY, left + across * ACROSS_BY, size)[:, None]
            move = (down * DOWN_BY * width + across * ACROSS_BY).to(tl.int64) * pixel_stride + channel
            turn = (vertical[0] + down * DOWN_TAPS) * ACROSS + horizontal[0] + across * ACROSS_TAPS
            a = tl.load(x[:, None] + (move + at[None, :]), mask=known, other=0.0)
            b = tl.load(of_weight + ((turn * channels + channel) + at[None, :]))
        else:
            entry = k + at
            tap = entry // channels
            down = tap // horizontal[1]
            across = tap - down * horizontal[1]
            channel = entry % channels
            known = _inside(
                top[:, None] + (down * DOWN_BY)[None, :], left[:, None] + (across * ACROSS_BY)[None, :], size
            )  # fmt: skip
            known &= (entry < inputs)[None, :]
            move = (down * DOWN_BY * width + across * ACROSS_BY).to(tl.int64) * pixel_stride + channel
            turn = (vertical[0] + down * DOWN_TAPS) * ACROSS + horizontal[0] + across * ACROSS_TAPS
            a = tl.load(x[:, None] + move[None, :], mask=known, other=0.0)
            b = tl.load(of_weight + (turn * channels + channel)[None, :], mask=(entry < inputs)[None, :], other=0.0)
        acc = dot(a, b, acc, OPERANDS)
    return acc


@triton.jit
def _store_statistics(
    y, statistics, image, first_row, rows, column, outputs, channels,
    BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each BLOCK rows of y, which are `rows` pixels of an image."""
    BLOCKS: tl.constexpr = TILE[0] // BLOCK
    known = (first_row + tl.arange(0, TILE[0]) < rows)[:, None]
    block = tl.arange(0, BLOCKS)
    count = tl.minimum(tl.maximum(rows - first_row - block * BLOCK, 1), BLOCK).to(tl.float32)[:, None]
    mean = tree_sum_blocks(tl.where(known, y, 0.0), BLOCK) / count
    spread = tl.broadcast_to(mean[:, None, :], (BLOCKS, BLOCK, TILE[1]))
    d = tl.where(known, y - tl.reshape(spread, (TILE[0], TILE[1])), 0.0)
    m2 = tree_sum_blocks(d * d, BLOCK)
    at = image * tl.cdiv(rows, BLOCK) + first_row // BLOCK + block
    where = (at * channels)[:, None] + column[None, :]
    stored = (first_row + block * BLOCK < rows)[:, None] & (column < outputs)[None, :]
    tl.store(statistics + 2 * where, mean, mask=stored)
    tl.store(statistics + 2 * where + 1, m2, mask=stored)


@triton.jit
def _finish(
    acc, pixel, place, first_column, outputs, channels, bias, residual, alpha, out, statistics,
    ACTIVATION: tl.constexpr, FAST: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Store act(acc + bias) + residual at the pixels given, in PARTS halves of halves to hold fewer registers.

    pixel: where each row goes; place: (image, first row, rows), rows from `rows` on being none.
    """
    BLOCK_COLUMNS: tl.constexpr = TILE[1]
    if PARTS > 1:
        HALF: tl.constexpr = (TILE[0], BLOCK_COLUMNS // 2)
        left, right = tl.split(tl.permute(tl.reshape(acc, (TILE[0], 2, BLOCK_COLUMNS // 2)), (0, 2, 1)))
        _finish(
            left, pixel, place, first_column, outputs, channels, bias, residual, alpha, out, statistics,
            ACTIVATION, FAST, BLOCK, HALF, PARTS // 2,
        )  # fmt: skip
        _finish(
            right, pixel, place, first_column + BLOCK_COLUMNS // 2, outputs, channels, bias, residual, alpha, out,
            statistics, ACTIVATION, FAST, BLOCK, HALF, PARTS // 2,
        )  # fmt: skip
    else:
        image, first_row, rows = place
        column = first_column + tl.arange(0, BLOCK_COLUMNS)
        inside = (first_row + tl.arange(0, TILE[0]) < rows)[:, None] & (column < outputs)[None, :]
        at = (pixel * channels)[:, None] + column[None, :]
        if bias is not None:
            acc += tl.load(bias + column, mask=column < outputs, other=0.0).to(tl.float32)[None, :]
        acc = activate(acc, alpha, ACTIVATION, FAST)
        if residual is not None:
            acc += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        y = acc.to(out.dtype.element_ty)
        tl.store(out + at, y, mask=inside)
        if BLOCK > 0:
            rounded = y.to(tl.float32)
            _store_statistics(rounded, statistics, image, first_row, rows, column, outputs, channels, BLOCK, TILE)


_SIZES = ["sheet_images", "height", "width", "out_height", "out_width", "channel_units", "output_units"]


@triton.jit(do_not_specialize=[*_SIZES, "alpha"])
def convolution_kernel(
    x,
    weight,
    bias,
    residual,
    out,
    statistics,
    sheet_images: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    channel_units: tl.int32,
    output_units: tl.int32,
    alpha: tl.float32,
    WINDOW: tl.constexpr,
    ACTIVATION: tl.constexpr,
    FAST: tl.constexpr,
    OPERANDS: tl.constexpr,
    OUTPUT_UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
):
    """out [n, out_height, out_width, groups, outputs] of x [n, height, width, groups, channels], both contiguous.

    weight [groups, outputs, kernel height, kernel width, channels], contiguous; bias [groups, outputs] and residual,
    of out's shape, or None. WINDOW: an `Axis` down and one across. The grid is (tiles and phases, groups). Tiles run
    through `sheet_images` images without a break: through all of them or, where each block of BLOCK consecutive
    pixels of an image gets statistics [n, blocks, groups, outputs, 2], through one. Sizes come in units as in
    `product` of gemm.py.
    """
    VERTICAL: tl.constexpr = WINDOW[0]
    HORIZONTAL: tl.constexpr = WINDOW[1]
    DOWN: tl.constexpr = VERTICAL[1]
    ACROSS: tl.constexpr = HORIZONTAL[1]
    channels = channel_units * OPERANDS[0]
    outputs = output_units * OUTPUT_UNIT
    group = tl.program_id(1)
    pixel_stride = channels * tl.num_programs(1)
    out_channels = outputs * tl.num_programs(1)
    phase = tl.program_id(0) % (DOWN * ACROSS)
    tile = tl.program_id(0) // (DOWN * ACROSS)
    first_y, rows_down, tap_y, taps_y, start_y = phase_of(phase // ACROSS, out_height, VERTICAL)
    first_x, rows_across, tap_x, taps_x, start_x = phase_of(phase % ACROSS, out_width, HORIZONTAL)

    most = tl.cdiv(out_height, DOWN) * tl.cdiv(out_width, ACROSS)
    row_tiles = tl.cdiv(sheet_images * most, TILE[0]).to(tl.int32)
    column_tiles = tl.cdiv(outputs, TILE[1])
    sheet = tile // (row_tiles * column_tiles)
    row_tile, column_tile = tile_origin(tile - sheet * row_tiles * column_tiles, row_tiles, column_tiles, GROUP_ROWS)
    first_row = row_tile.to(tl.int64) * TILE[0]
    pixels = rows_down * rows_across
    rows = sheet_images * pixels
    # From here on 32 bits do: a tile's pixels are counted from the first pixel of the image that it begins in.
    first_image = sheet * sheet_images + first_row // tl.maximum(pixels, 1)
    within = (first_row % tl.maximum(pixels, 1)).to(tl.int32) + tl.arange(0, TILE[0])
    ahead = within // tl.maximum(pixels, 1)
    within -= ahead * pixels
    down = within // tl.maximum(rows_across, 1)
    across = within - down * rows_across
    image = first_image + ahead
    known = first_row + tl.arange(0, TILE[0]) < rows
    # Rows past the end read above every image, that is, zeros.
    top = tl.where(known, down * VERTICAL[2] + start_y, -(2**30))
    left = across * HORIZONTAL[2] + start_x

    of_x = x + ((image * height + top) * width + left) * pixel_stride + group * channels
    of_weight = weight + group.to(tl.int64) * (outputs * (VERTICAL[0] * HORIZONTAL[0])) * channels
    first_column = column_tile * TILE[1]
    acc = _product(
        of_x, of_weight, top, left, first_column, (height, width), channels, pixel_stride, outputs,
        (tap_y, taps_y), (tap_x, taps_x), WINDOW, OPERANDS, TILE,
    )  # fmt: skip
    pixel = (image * out_height + (first_y + down * DOWN)) * out_width + (first_x + across * ACROSS)
    if bias is not None:
        bias += group * outputs
    if residual is not None:
        residual += group * outputs
    if BLOCK > 0:
        statistics += 2 * group * outputs
    _finish(
        acc, pixel, (sheet, first_row, rows), first_column, outputs, out_channels, bias, residual, alpha,
        out + group * outputs, statistics, ACTIVATION, FAST, BLOCK, TILE, PARTS,
    )  # fmt: skip
