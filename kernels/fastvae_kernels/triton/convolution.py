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
from ..common.levels import levels, odd_rows
from ..common.rows import tree_sum_blocks
from .gemm import dot, tile_origin
from .window import phase_of

__all__ = ["convolution_kernel", "tile_product"]


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
    acc, at, place, first_column, outputs, channels, factors, bias, residual, alpha, level, out, statistics, nan,
    ACTIVATION: tl.constexpr, FAST: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Store act(acc factors + bias) + residual at the pixels given, in PARTS halves of halves to hold fewer registers.

    at: each row's image and pixel, where it goes; place: (image, first row, rows), rows from `rows` on being none. As
    bytes, what is stored is the `levels` of it, scaled and shifted by `level`, and an image with a NaN is marked in nan
    [n]: programs that share an image mark it alike.
    """
    BLOCK_COLUMNS: tl.constexpr = TILE[1]
    if PARTS > 1:
        HALF: tl.constexpr = (TILE[0], BLOCK_COLUMNS // 2)
        left, right = tl.split(tl.permute(tl.reshape(acc, (TILE[0], 2, BLOCK_COLUMNS // 2)), (0, 2, 1)))
        _finish(
            left, at, place, first_column, outputs, channels, factors, bias, residual, alpha, level, out,
            statistics, nan, ACTIVATION, FAST, BLOCK, HALF, PARTS // 2,
        )  # fmt: skip
        _finish(
            right, at, place, first_column + BLOCK_COLUMNS // 2, outputs, channels, factors, bias, residual, alpha,
            level, out, statistics, nan, ACTIVATION, FAST, BLOCK, HALF, PARTS // 2,
        )  # fmt: skip
    else:
        image, first_row, rows = place
        column = first_column + tl.arange(0, BLOCK_COLUMNS)
        inside = (first_row + tl.arange(0, TILE[0]) < rows)[:, None] & (column < outputs)[None, :]
        where = (at[1] * channels)[:, None] + column[None, :]
        if factors is not None:
            acc *= tl.load(factors + column, mask=column < outputs, other=0.0)[None, :]
        if bias is not None:
            acc += tl.load(bias + column, mask=column < outputs, other=0.0).to(tl.float32)[None, :]
        acc = activate(acc, alpha, ACTIVATION, FAST)
        if residual is not None:
            acc += tl.load(residual + where, mask=inside, other=0.0).to(tl.float32)
        if out.dtype.element_ty == tl.uint8:
            odd = odd_rows(acc, inside)
            tl.store(nan + at[0], odd.to(tl.uint8), mask=odd > 0)
            acc = levels(acc, level[0], level[1])
        y = acc.to(out.dtype.element_ty)
        tl.store(out + where, y, mask=inside)
        if BLOCK > 0:
            rounded = y.to(tl.float32)
            _store_statistics(rounded, statistics, image, first_row, rows, column, outputs, channels, BLOCK, TILE)


@triton.jit
def tile_product(
    x, weight, sizes, groups, outputs, channels,
    WINDOW: tl.constexpr, OPERANDS: tl.constexpr, TILE: tl.constexpr, GROUP_ROWS: tl.constexpr,
):  # fmt: skip
    """This program's tile of the products, its rows' (image, pixel), its place, and its first column.

    image and pixel, of the whole batch, are int64 [TILE[0]]. The place is (first image of the sheet, first row, rows):
    rows from `rows` on are none. sizes: (images, images of a sheet, height, width, output height, output width). A
    sheet's rows are counted in 32 bits, since dividing 64 is a call. See `convolution_kernel`.
    """
    VERTICAL: tl.constexpr = WINDOW[0]
    HORIZONTAL: tl.constexpr = WINDOW[1]
    DOWN: tl.constexpr = VERTICAL[1]
    ACROSS: tl.constexpr = HORIZONTAL[1]
    images, sheet_images, height, width, out_height, out_width = sizes
    group = tl.program_id(1)
    pixel_stride = channels * groups
    phase = tl.program_id(0) % (DOWN * ACROSS)
    tile = tl.program_id(0) // (DOWN * ACROSS)
    first_y, rows_down, tap_y, taps_y, start_y = phase_of(phase // ACROSS, out_height, VERTICAL)
    first_x, rows_across, tap_x, taps_x, start_x = phase_of(phase % ACROSS, out_width, HORIZONTAL)

    most = tl.cdiv(out_height, DOWN) * tl.cdiv(out_width, ACROSS)
    row_tiles = tl.cdiv(sheet_images * most, TILE[0])
    column_tiles = tl.cdiv(outputs, TILE[1])
    sheet = tile // (row_tiles * column_tiles)
    row_tile, column_tile = tile_origin(tile - sheet * row_tiles * column_tiles, row_tiles, column_tiles, GROUP_ROWS)
    first_row = row_tile * TILE[0]
    first_image = sheet.to(tl.int64) * sheet_images
    pixels = rows_down * rows_across
    rows = tl.minimum(images - first_image, sheet_images).to(tl.int32) * pixels
    row = first_row + tl.arange(0, TILE[0])
    ahead = row // tl.maximum(pixels, 1)
    within = row - ahead * pixels
    down = within // tl.maximum(rows_across, 1)
    across = within - down * rows_across
    image = first_image + ahead
    known = row < rows
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
    return acc, (image, pixel), (first_image, first_row, rows), first_column


_SIZES = ["images", "sheet_images", "height", "width", "out_height", "out_width", "channel_units", "output_units"]


@triton.jit(do_not_specialize=[*_SIZES, "alpha", "scale", "shift"])
def convolution_kernel(
    x,
    weight,
    factors,
    bias,
    residual,
    out,
    statistics,
    nan,
    images: tl.int64,
    sheet_images: tl.int32,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    channel_units: tl.int32,
    output_units: tl.int32,
    alpha: tl.float32,
    scale: tl.float32,
    shift: tl.float32,
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

    weight [groups, outputs, kernel height, kernel width, channels], contiguous; factors, of the sums, and bias [groups,
    outputs] and residual, of out's shape, or None. WINDOW: an `Axis` down and one across. The grid is (tiles and
    phases, groups). Tiles run through a sheet of `sheet_images` images without a break: one, where each block of BLOCK
    consecutive pixels of an image gets statistics [n, blocks, groups, outputs, 2]. Where out is of bytes, it is an
    image of values times scale plus shift, and nan [n], of zeros, gets a 1 where one is, see `_finish`. Sizes come in
    units as in `product` of gemm.py.
    """
    channels = channel_units * OPERANDS[0]
    outputs = output_units * OUTPUT_UNIT
    group, groups = tl.program_id(1), tl.num_programs(1)
    sizes = (images, sheet_images, height, width, out_height, out_width)
    acc, at, place, first_column = tile_product(
        x, weight, sizes, groups, outputs, channels, WINDOW, OPERANDS, TILE, GROUP_ROWS
    )  # fmt: skip
    if factors is not None:
        factors += group * outputs
    if bias is not None:
        bias += group * outputs
    if residual is not None:
        residual += group * outputs
    if BLOCK > 0:
        statistics += 2 * group * outputs
    _finish(
        acc, at, place, first_column, outputs, outputs * groups, factors, bias, residual, alpha, (scale, shift),
        out + group * outputs, statistics, nan, ACTIVATION, FAST, BLOCK, TILE, PARTS,
    )  # fmt: skip
