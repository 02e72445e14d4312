"""Convolutions that give more than their result, or something else made of it: `conv2d_statistics`."""

import torch
from torch import Tensor

from .. import library, reference
from ..checks import check_int, output_dtype
from ..dispatch import resolve_impl
from ..errors import UnavailableError
from ..layout import empty_output
from .convolutions import Pair, check_conv, conv_size
from .norms import channel_statistics
from .registration import register

__all__ = ["conv2d_statistics"]

_LARGEST_BLOCK = 128
"""Pixels that every tile has: one holds whole blocks, where they are powers of two up to this."""


def _implementation(x: Tensor, block: int, impl: str) -> str:
    chosen = resolve_impl("conv2d_statistics", impl, x.device, x.dtype)
    if chosen == "triton" and (block & (block - 1) or block > _LARGEST_BLOCK):
        if impl == "triton":
            wanted = f"block must be a power of two of at most {_LARGEST_BLOCK}; found {block}"
            raise UnavailableError(f"impl 'triton' of conv2d_statistics cannot run: {wanted}; impl 'reference' can")
        return "reference"
    return chosen


@register("conv2d_statistics")
def _conv2d_statistics(
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
    impl: str,
) -> tuple[Tensor, Tensor]:
    window = stride, padding, dilation, groups, activation, alpha, scale, out_dtype
    chosen = _implementation(x, block, impl)
    if chosen == "library":
        y = library.conv2d(x, weight, bias, residual, *window)
        return y, channel_statistics(y, block=block)
    if chosen == "triton":
        from ..triton.conv2d import conv2d_statistics as implementation

        size = conv_size(x, weight, stride, padding, dilation)
        return implementation(x, weight, bias, residual, *window, block, size)
    return reference.conv2d_statistics(x, weight, bias, residual, *window, block)


@_conv2d_statistics.register_fake
def _(
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
    impl: str,
) -> tuple[Tensor, Tensor]:
    h, w = conv_size(x, weight, stride, padding, dilation)
    shape = x.shape[0], -(-h * w // block), weight.shape[0], 2
    dtype = torch.float64 if out_dtype == torch.float64 else torch.float32
    return empty_output(x, (x.shape[0], weight.shape[0], h, w), out_dtype), x.new_empty(shape, dtype=dtype)


def conv2d_statistics(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    block: int,
    residual: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair | tuple[int, int, int, int] = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    activation: str = "identity",
    alpha: float | None = None,
    scale: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`conv2d`, whose other arguments it takes, and the statistics of its result that a group norm needs.

    Returns y [n, o, h', w'] and, contiguous in float32 (float64 for float64), [n, blocks, o, 2]: of each `block` pixels
    of y in row-major order, blocks = h' w' / block rounded up and the last having what is left, each channel's mean and
    sum of squared deviations from it. They are those of y as it is stored, that is, rounded to its dtype: what
    `channel_statistics` gives for y. Triton takes a block that is a power of two of at most 128, since a block must
    lie in one of its tiles; "auto" takes the reference for others.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_int("block", block, 1)
    dtype = output_dtype(x, out_dtype)
    window = check_conv(
        x, weight, bias, residual, stride, padding, dilation, groups, activation, alpha, scale=scale, out_dtype=dtype
    )
    out: tuple[Tensor, Tensor]
    out = _conv2d_statistics(
        x, weight, bias, residual, *window, groups, activation, alpha, scale, dtype, block, impl
    )  # fmt: skip
    return out
