"""`conv2d`, `conv2d_statistics`, `conv_image` and `conv_transpose2d`: launches of one kernel, see convolution.py.

Images and weights are read with channels innermost, and others are copied first.
"""

from functools import lru_cache

import torch
from torch import Tensor

from ..errors import UnavailableError
from ..layout import empty_output
from ..tiling import GemmConfig, conv_config, precision_key
from .convolution import convolution_kernel
from .gemm import NARROW, Operands, ceil_div, contiguous, default_alpha, row_unit
from .linear import fill
from .window import Axis, conv_axis, phases, transposed_axis

__all__ = [
    "check_pixels",
    "conv2d",
    "conv2d_statistics",
    "conv_image",
    "conv_operands",
    "conv_transpose2d",
    "conv_window",
    "innermost",
    "launch",
]


@lru_cache(maxsize=4096)
def conv_operands(channels: int, whole: int, dtype: torch.dtype, cpu: bool, block_inputs: int) -> Operands:
    eight_bits = dtype == torch.float8_e4m3fn
    return Operands(
        unit=row_unit(channels, whole, largest=16 if eight_bits else 8),
        even=channels % block_inputs == 0,
        precision="ieee",
        promote=min(block_inputs, 128) if eight_bits else 0,
        widen=cpu and dtype == torch.bfloat16,
    )


_SHEET_ROWS = 2**30
"""The most pixels that tiles run through without a break, of one image or more: they are counted in 32 bits."""


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    statistics: Tensor | None,
    window: tuple[Axis, Axis],
    groups: int,
    activation: str,
    alpha: float | None,
    *,
    scale: Tensor | None = None,
    block: int = 0,
    level: tuple[float, float] = (1.0, 0.0),
    nan: Tensor | None = None,
    config: GemmConfig,
) -> None:
    """Fill out [n, h', w', o] and, of every `block` pixels, statistics [n, blocks, o, 2].

    x [n, h, w, c], weight [o, kh, kw, c / groups], bias and scale [o] and residual, of out's shape: all contiguous.
    scale: of 8-bit operands. level: scale and shift of an out of bytes,
    which images of it have a NaN is marked in nan [n], of bytes that are 0.
    """
    n, out_height, out_width, out_channels = out.shape
    outputs, channels = out_channels // groups, weight.shape[3]
    layout = conv_operands(channels, x.shape[3], x.dtype, x.device.type == "cpu", config.block_inputs)
    output_unit = row_unit(outputs, out_channels)
    vertical, horizontal = window
    most = ceil_div(out_height, vertical.step) * ceil_div(out_width, horizontal.step)
    sheet_images = 1 if block else max(1, min(n, _SHEET_ROWS // most))
    sheets = ceil_div(n, sheet_images)
    tiles = ceil_div(sheet_images * most, config.block_rows) * ceil_div(outputs, config.block_columns)
    convolution_kernel[(sheets * tiles * phases(*window), groups)](
        x,
        weight,
        scale,
        bias,
        residual,
        out,
        statistics,
        nan,
        n,
        sheet_images,
        x.shape[1],
        x.shape[2],
        out_height,
        out_width,
        channels // layout.unit,
        outputs // output_unit,
        default_alpha(activation) if alpha is None else alpha,
        *level,
        WINDOW=(tuple(vertical), tuple(horizontal)),
        ACTIVATION=activation,
        FAST=x.dtype in NARROW,
        OPERANDS=tuple(layout),
        OUTPUT_UNIT=output_unit,
        BLOCK=block,
        TILE=config.tile,
        PARTS=config.parts,
        GROUP_ROWS=config.group_rows,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


_MOST_PIXELS = 2**31 - 512
"""Of an image of the output: a tile counts them in 32 bits."""


def check_pixels(size: tuple[int, int]) -> None:
    """The kernel can count the pixels of an output of this height and width."""
    if size[0] * size[1] > _MOST_PIXELS:
        raise UnavailableError(f"impl 'triton' takes outputs of at most {_MOST_PIXELS} pixels an image; found {size}")


def _empty(x: Tensor, outputs: int, size: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The output, and where the kernel writes it, [n, h', w', o]: the same memory where that has channels innermost."""
    check_pixels(size)
    out = empty_output(x, (x.shape[0], outputs, *size), dtype)
    if out.is_contiguous(memory_format=torch.channels_last):
        return out, out.permute(0, 2, 3, 1)
    return out, torch.empty(x.shape[0], *size, outputs, dtype=dtype, device=x.device)


def innermost(x: Tensor | None) -> Tensor | None:
    """Images [n, c, h, w] as [n, h, w, c] without gaps."""
    return None if x is None else x.permute(0, 2, 3, 1).contiguous()


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    size: tuple[int, int],
    window: tuple[Axis, Axis],
    groups: int,
    activation: str,
    alpha: float | None,
    scale: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    block: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """The output and its statistics, if `block` asks for them; weight [o, kh, kw, c / groups]."""
    n, outputs, pixels = x.shape[0], weight.shape[0], size[0] * size[1]
    out, inner = _empty(x, outputs, size, out_dtype or x.dtype)
    statistics = None
    if block:
        statistics = torch.empty(n, ceil_div(pixels, block), outputs, 2, dtype=torch.float32, device=x.device)
    if out.numel() == 0:
        return out, statistics
    image, weight, added = innermost(x), weight.contiguous(), innermost(residual)
    assert image is not None
    precision, taps = precision_key(x.dtype, "ieee"), weight.shape[1] * weight.shape[2]
    if not block and scale is None and groups == 1 and window == (_POINT, _POINT):
        of_pixels = None if added is None else added.view(-1, outputs)
        rows, matrix = image.view(-1, image.shape[3]), weight.view(outputs, -1)
        fill(rows, matrix, bias, of_pixels, None, None, inner.view(-1, outputs), activation, alpha, "ieee")
    else:
        config = conv_config(outputs // groups, weight.shape[3], taps, precision, x.device)
        bias, factors = contiguous(bias), contiguous(scale)
        rest = (bias, added, inner, statistics, window, groups, activation, alpha)
        launch(image, weight, *rest, scale=factors, block=block, config=config)
    if inner.data_ptr() != out.data_ptr():
        out.copy_(inner.permute(0, 3, 1, 2))
    return out, statistics


_POINT = conv_axis(1, 1, 1, 0)
"""Of a convolution of each pixel by itself, which is a plain matrix product."""


def conv_window(weight: Tensor, stride: list[int], padding: list[int], dilation: list[int]) -> tuple[Axis, Axis]:
    down, across = (conv_axis(weight.shape[2 + i], stride[i], dilation[i], padding[i]) for i in (0, 1))
    return down, across


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    alpha: float | None,
    scale: Tensor | None,
    out_dtype: torch.dtype,
    size: tuple[int, int],
) -> Tensor:
    """As the reference defines it, summed over taps and then channels in one fixed order; size: (h', w')."""
    window = conv_window(weight, stride, padding, dilation)
    inner = weight.permute(0, 2, 3, 1)
    return _convolved(x, inner, bias, residual, size, window, groups, activation, alpha, scale, out_dtype)[0]


def conv2d_statistics(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    alpha: float | None,
    scale: Tensor | None,
    out_dtype: torch.dtype,
    block: int,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """As the reference defines it; block: a power of two of at most 128, which the rows of every tile are."""
    window = conv_window(weight, stride, padding, dilation)
    inner = weight.permute(0, 2, 3, 1)
    settings = groups, activation, alpha, scale, out_dtype, block
    y, statistics = _convolved(x, inner, bias, residual, size, window, *settings)
    assert statistics is not None
    return y, statistics


def conv_image(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    shift: float,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation: str,
    alpha: float | None,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """As the reference defines it, summed as `conv2d` sums; size: (h', w')."""
    check_pixels(size)
    n, outputs = x.shape[0], weight.shape[0]
    out = torch.empty(n, *size, outputs, dtype=torch.uint8, device=x.device)
    nan = torch.zeros(n, dtype=torch.bool, device=x.device)
    image, inner = innermost(x), weight.permute(0, 2, 3, 1).contiguous()
    assert image is not None
    if out.numel():
        taps, precision = weight.shape[2] * weight.shape[3], precision_key(x.dtype, "ieee")
        config = conv_config(outputs, weight.shape[1], taps, precision, x.device)
        window = conv_window(weight, stride, padding, dilation)
        bias, level = contiguous(bias), (scale, shift)
        marks = nan.view(torch.uint8)
        launch(image, inner, bias, None, out, None, window, 1, activation, alpha, level=level, nan=marks, config=config)
    return out, nan


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    alpha: float | None,
    size: tuple[int, int],
) -> Tensor:
    """As the reference defines it, each phase summed over its taps and then channels in one fixed order."""
    down, across = (transposed_axis(weight.shape[2 + i], stride[i], dilation[i], padding[i]) for i in (0, 1))
    # [groups, c / groups, o / groups, kh, kw] with the channels innermost, and both group axes in one.
    parted = weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])
    inner = parted.permute(0, 2, 3, 4, 1).flatten(0, 1)
    return _convolved(x, inner, bias, residual, size, (down, across), groups, activation, alpha)[0]
