"""`to_bytes`: rows of numbers as bytes, an image's channels innermost, in one pass."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.levels import levels, odd_rows
from ..errors import UnavailableError
from ..layout import output_format
from ..tuning import PointwiseConfig, config_for
from .affine import LONGEST_ROW, in_memory_order, tile_shape
from .gemm import ceil_div, row_unit

__all__ = ["launch", "to_bytes", "to_bytes_kernel"]


@triton.jit(do_not_specialize=["rows", "column_units", "row_units", "column_tiles", "channels", "pixels"])
def to_bytes_kernel(
    x,
    out,
    nan,
    rows: tl.int64,
    column_units: tl.int32,
    row_units: tl.int64,
    column_tiles: tl.int32,
    channels: tl.int32,
    pixels: tl.int32,
    scale: tl.float32,
    shift: tl.float32,
    UNIT: tl.constexpr,
    TURNED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """x [rows, columns] of any row stride, out without gaps; lengths in UNIT elements. nan [rows] is 1 where one is.

    TURNED: a row of x is [channels, pixels], one of out [pixels, channels]; else they have one order. Programs that
    share a row mark it alike, so it does not matter which is last.
    """
    columns = column_units * UNIT
    row = (tl.program_id(0) // column_tiles).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(0) % column_tiles * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    read = column % channels * pixels + column // channels if TURNED else column
    y = tl.load(x + row[:, None] * (row_units * UNIT) + read[None, :], mask=inside, other=0.0).to(tl.float32)
    odd = odd_rows(y, inside)
    tl.store(nan + row, odd.to(tl.uint8), mask=odd > 0)
    of_out = out + row[:, None] * columns.to(tl.int64) + column[None, :]
    tl.store(of_out, levels(y, scale, shift).to(tl.uint8), mask=inside)


def launch(
    x: Tensor, out: Tensor, nan: Tensor, channels: int, scale: float, shift: float, *, config: PointwiseConfig
) -> None:
    """Fill out [n, columns] of bytes, contiguous, and nan [n] of bytes, zeros; x [n, columns] with inner stride 1.

    With `channels` x's rows have them outermost, and out's innermost; 0 keeps the order.
    """
    n, columns = x.shape
    stride = x.stride(0) if n > 1 else 0
    unit = row_unit(columns, stride)
    rows, width = tile_shape(columns, config)
    column_tiles = ceil_div(columns, width)
    to_bytes_kernel[(ceil_div(n, rows) * column_tiles,)](
        x,
        out,
        nan,
        n,
        columns // unit,
        stride // unit,
        column_tiles,
        max(channels, 1),
        columns // max(channels, 1),
        scale,
        shift,
        UNIT=unit,
        TURNED=channels > 0,
        BLOCK_ROWS=rows,
        BLOCK_COLUMNS=width,
        num_warps=config.num_warps,
    )


def to_bytes(x: Tensor, scale: float, shift: float) -> tuple[Tensor, Tensor]:
    """As the reference defines it."""
    if x.shape[1:].numel() > LONGEST_ROW:
        raise UnavailableError(f"impl 'triton' takes rows of at most {LONGEST_ROW} entries; found {tuple(x.shape)}")
    n, *shape = x.shape
    is_image = x.dim() == 4
    out = torch.empty(n, *([*shape[1:], shape[0]] if is_image else shape), dtype=torch.uint8, device=x.device)
    nan = torch.zeros(n, dtype=torch.bool, device=x.device)
    if out.numel():
        config = config_for("pointwise", x.device)
        assert isinstance(config, PointwiseConfig)
        turned = is_image and output_format(x) != torch.channels_last
        flat = out.view(n, -1)
        launch(in_memory_order(x), flat, nan.view(torch.uint8), shape[0] * turned, scale, shift, config=config)
    return out, nan
