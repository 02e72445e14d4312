"""`conv_score`: a decoder's last convolution and the score of data under it; its output is never written.

Each tile of an image has its own program, which scores it against the data and stores one number; a second kernel adds
an image's numbers, in one order.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.rows import tree_sum
from ..tiling import GemmConfig, conv_config, precision_key
from .conv2d import check_pixels, conv_operands, conv_window, innermost
from .convolution import tile_product
from .gemm import NARROW, ceil_div, contiguous, default_alpha, row_unit
from .linear_score import tile_scores
from .window import Axis

__all__ = ["add_tiles", "add_tiles_kernel", "conv_score", "conv_score_kernel", "launch"]

_SIZES = ["images", "data_rows", "height", "width", "out_height", "out_width", "channel_units", "output_units"]


@triton.jit(do_not_specialize=[*_SIZES, "alpha"])
def conv_score_kernel(
    x,
    weight,
    bias,
    data,
    logvar,
    mask,
    out,
    images: tl.int64,
    data_rows: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    channel_units: tl.int32,
    output_units: tl.int32,
    alpha: tl.float32,
    WINDOW: tl.constexpr,
    LIKELIHOOD: tl.constexpr,
    ACTIVATION: tl.constexpr,
    FAST: tl.constexpr,
    OPERANDS: tl.constexpr,
    OUTPUT_UNIT: tl.constexpr,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
):
    """out [n, tiles of an image]: the scores of each tile of a convolution's output, summed.

    x [n, height, width, channels] and weight as in `convolution_kernel`. data and mask [data_rows, out_height,
    out_width, outputs], image i of x meeting image i % data_rows; logvar: one number, or None; all contiguous.
    """
    channels = channel_units * OPERANDS[0]
    outputs = output_units * OUTPUT_UNIT
    sizes = (images, 1, height, width, out_height, out_width)
    acc, at, place, first_column = tile_product(
        x, weight, sizes, 1, outputs, channels, WINDOW, OPERANDS, TILE, GROUP_ROWS
    )  # fmt: skip
    image, pixel = at
    pixels = tl.cast(out_height, tl.int64) * out_width
    at_data = pixel + (image % data_rows - image) * pixels
    row = place[1] + tl.arange(0, TILE[0])
    extras = (bias, data, outputs, logvar, 0, mask, outputs, None, None)
    total = tile_scores(
        acc, row, first_column, place[2], outputs, at_data, extras, alpha, LIKELIHOOD, ACTIVATION, FAST, TILE, PARTS
    )  # fmt: skip
    tl.store(out + tl.program_id(0) + tl.arange(0, 1), tree_sum(tl.reshape(total, (1, TILE[0]))))


@triton.jit(do_not_specialize=["tiles"])
def add_tiles_kernel(tiles_of, out, tiles: tl.int32, BLOCK: tl.constexpr):
    """out [n] = the sums of the rows of tiles_of [n, tiles]."""
    at = tl.arange(0, BLOCK)
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((1, BLOCK), tl.float32)
    for first in range(0, tiles, BLOCK):
        total += tl.load(tiles_of + row * tiles + first + at, mask=at < tiles - first, other=0.0)[None, :]
    tl.store(out + row + tl.arange(0, 1), tree_sum(total))


_BLOCK = 1024
"""Numbers that one program adds at a time."""


def add_tiles(tiles_of: Tensor) -> Tensor:
    """The sums of the rows of [n, tiles], contiguous, in an order that `tiles` decides."""
    n, tiles = tiles_of.shape
    out = torch.empty(n, dtype=torch.float32, device=tiles_of.device)
    add_tiles_kernel[(n,)](tiles_of, out, tiles, BLOCK=_BLOCK)
    return out


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    data: Tensor,
    likelihood: str,
    logvar: Tensor | None,
    mask: Tensor | None,
    out: Tensor,
    window: tuple[Axis, Axis],
    activation: str,
    alpha: float | None,
    *,
    config: GemmConfig,
) -> None:
    """Fill out [n, tiles of an image], float32.

    x [n, h, w, c], weight [o, kh, kw, c], bias [o], data and mask (uint8) [rows, h', w', o], logvar []: contiguous.
    """
    rows, out_height, out_width, outputs = data.shape
    layout = conv_operands(x.shape[3], x.shape[3], x.dtype, x.device.type == "cpu", config.block_inputs)
    output_unit = row_unit(outputs)
    conv_score_kernel[(out.numel(), 1)](
        x,
        weight,
        bias,
        data,
        logvar,
        mask,
        out,
        x.shape[0],
        rows,
        x.shape[1],
        x.shape[2],
        out_height,
        out_width,
        x.shape[3] // layout.unit,
        outputs // output_unit,
        default_alpha(activation) if alpha is None else alpha,
        WINDOW=tuple(tuple(axis) for axis in window),
        LIKELIHOOD=likelihood,
        ACTIVATION=activation,
        FAST=x.dtype in NARROW,
        OPERANDS=tuple(layout),
        OUTPUT_UNIT=output_unit,
        TILE=config.tile,
        PARTS=config.parts,
        GROUP_ROWS=config.group_rows,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def conv_score(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    data: Tensor,
    likelihood: str,
    logvar: Tensor | None,
    mask: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation: str,
    alpha: float | None,
) -> Tensor:
    """As the reference defines it, summed within each tile and then over an image's tiles, in one fixed order."""
    n, channels, outputs, size = x.shape[0], x.shape[1], weight.shape[0], (data.shape[2], data.shape[3])
    check_pixels(size)
    if n == 0 or outputs == 0:
        return torch.zeros(n, dtype=torch.float32, device=x.device)
    taps, precision = weight.shape[2] * weight.shape[3], precision_key(x.dtype, "ieee")
    config = conv_config(outputs, channels, taps, precision, x.device)
    tiles = ceil_div(size[0] * size[1], config.block_rows) * ceil_div(outputs, config.block_columns)
    out = torch.empty(n, tiles, dtype=torch.float32, device=x.device)
    image, of_data, of_mask = innermost(x), innermost(data), innermost(mask)
    assert image is not None
    assert of_data is not None
    launch(
        image,
        weight.permute(0, 2, 3, 1).contiguous(),
        contiguous(bias),
        of_data,
        likelihood,
        logvar,
        None if of_mask is None else of_mask.view(torch.uint8),
        out,
        conv_window(weight, stride, padding, dilation),
        activation,
        alpha,
        config=config,
    )
    return add_tiles(out)
