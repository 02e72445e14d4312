"""The convolution ops: `conv2d` and `conv_transpose2d`, each with a fused bias, activation and residual."""

import torch
from torch import Tensor

from .. import library, reference
from ..checks import (
    check_activation,
    check_divides,
    check_floating,
    check_residual,
    check_scale,
    check_shape,
    check_weights,
    output_dtype,
    pair,
    sides,
)
from ..dispatch import resolve_impl
from ..layout import empty_output
from .registration import register

__all__ = ["check_conv", "conv2d", "conv_size", "conv_transpose2d"]

Pair = int | tuple[int, int]


def _check_output_size(h: int, w: int, x: Tensor, weight: Tensor) -> None:
    if h < 1 or w < 1:
        shapes = f"x {tuple(x.shape)} and weight {tuple(weight.shape)}"
        raise ValueError(f"x must be large enough for its weight; found {shapes}, an output of {h} x {w}")


def conv_size(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int]) -> tuple[int, int]:
    """Height and width of a convolution's output; padding: top, left, bottom, right."""
    h, w = (
        (x.shape[2 + i] + padding[i] + padding[2 + i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    )
    return h, w


@register("conv2d")
def _conv2d(
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
    impl: str,
) -> Tensor:
    window = stride, padding, dilation, groups, activation, alpha, scale, out_dtype
    chosen = resolve_impl("conv2d", impl, x.device, x.dtype)
    if chosen == "triton":
        from ..triton.conv2d import conv2d as implementation

        return implementation(x, weight, bias, residual, *window, conv_size(x, weight, stride, padding, dilation))
    if chosen == "library":
        return library.conv2d(x, weight, bias, residual, *window)
    return reference.conv2d(x, weight, bias, residual, *window)


@_conv2d.register_fake
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
    impl: str,
) -> Tensor:
    size = conv_size(x, weight, stride, padding, dilation)
    return empty_output(x, (x.shape[0], weight.shape[0], *size), out_dtype)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
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
) -> Tensor:
    """act(conv(x, weight) + bias) + residual, accumulated in float32 (float64 for float64), never in TF32.

    x: [n, c, h, w]; weight: [o, c / groups, kh, kw]; bias: [o] or None; residual: [n, o, h', w'] or None; all of one
    floating dtype. padding: zeros on each side, as one number, as (top and bottom, left and right), or as (top, left,
    bottom, right). Returns [n, o, h', w'] with h' = (h + top + bottom - dilation (kh - 1) - 1) // stride + 1,
    channels_last if x is. Triton works on images and weights in that memory format, and copies others at each call;
    impl="library" is PyTorch's own (cuDNN's on CUDA), in x's dtype, rounded before activation and residual.

    x and weight may also both be float8_e4m3fn with scale [o], float32, what x's scale and each output's weights' make
    together: act(conv(x, weight) scale + bias) + residual. bias is then of any floating dtype. out_dtype is that of the
    result and of residual, by default x's, and bfloat16 for 8-bit x.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    dtype = output_dtype(x, out_dtype)
    window = check_conv(
        x, weight, bias, residual, stride, padding, dilation, groups, activation, alpha, scale=scale, out_dtype=dtype
    )
    out: Tensor = _conv2d(x, weight, bias, residual, *window, groups, activation, alpha, scale, dtype, impl)
    return out


def check_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Pair,
    padding: Pair | tuple[int, int, int, int],
    dilation: Pair,
    groups: int,
    activation: str,
    alpha: float | None,
    *,
    scale: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> tuple[list[int], list[int], list[int]]:
    """Check what every convolution takes, and give stride, padding on four sides and dilation in full.

    8-bit operands are taken where there is an `out_dtype`.
    """
    check_activation(activation, alpha)
    check_floating("x", x, 4, float8=out_dtype is not None)
    check_floating("weight", weight, 4, float8=out_dtype is not None)
    window = pair("stride", stride, 1), sides("padding", padding), pair("dilation", dilation, 1)
    check_divides("groups", groups, "x's channels", x.shape[1])
    check_divides("groups", groups, "weight's outputs", weight.shape[0])
    check_shape("weight", weight, (weight.shape[0], x.shape[1] // groups, *weight.shape[2:]))
    check_weights(x, weight, bias, weight.shape[0])
    size = conv_size(x, weight, *window)
    _check_output_size(*size, x, weight)
    check_scale("scale", scale, x, weight.shape[0])
    check_residual(residual, (x.shape[0], weight.shape[0], *size), out_dtype or x.dtype, x)
    return window


def _transposed_size(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
) -> tuple[int, int]:
    h, w = (
        (x.shape[2 + i] - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (weight.shape[2 + i] - 1)
        + output_padding[i]
        + 1
        for i in (0, 1)
    )
    return h, w


@register("conv_transpose2d")
def _conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    alpha: float | None,
    impl: str,
) -> Tensor:
    chosen = resolve_impl("conv_transpose2d", impl, x.device, x.dtype)
    if chosen == "triton":
        from ..triton.conv2d import conv_transpose2d as implementation

        size = _transposed_size(x, weight, stride, padding, output_padding, dilation)
        return implementation(x, weight, bias, residual, stride, padding, dilation, groups, activation, alpha, size)
    window = stride, padding, output_padding, dilation, groups, activation, alpha
    if chosen == "library":
        return library.conv_transpose2d(x, weight, bias, residual, *window)
    return reference.conv_transpose2d(x, weight, bias, residual, *window)


@_conv_transpose2d.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    alpha: float | None,
    impl: str,
) -> Tensor:
    size = _transposed_size(x, weight, stride, padding, output_padding, dilation)
    return empty_output(x, (x.shape[0], weight.shape[1] * groups, *size))


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    output_padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    activation: str = "identity",
    alpha: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """act(convᵀ(x, weight) + bias) + residual, accumulated in float32 (float64 for float64), never in TF32.

    x: [n, c, h, w]; weight: [c, o / groups, kh, kw]; bias: [o] or None; residual: [n, o, h', w'] or None; all of one
    floating dtype. Returns [n, o, h', w'] with h' = (h - 1) stride - 2 padding + dilation (kh - 1) + output_padding
    + 1, channels_last if x is. output_padding must be smaller than stride or dilation. Triton works on images in that
    memory format and, without groups, on a weight whose transpose(0, 1) is; it copies others at each call.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_activation(activation, alpha)
    check_floating("x", x, 4)
    check_floating("weight", weight, 4)
    strides, dilations = pair("stride", stride, 1), pair("dilation", dilation, 1)
    extra = pair("output_padding", output_padding, 0)
    window = strides, pair("padding", padding, 0), extra, dilations
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise ValueError(f"output_padding must be smaller than stride or dilation; found {output_padding}")
    check_divides("groups", groups, "x's channels", x.shape[1])
    check_shape("weight", weight, (x.shape[1], *weight.shape[1:]))
    check_weights(x, weight, bias, weight.shape[1] * groups)
    size = _transposed_size(x, weight, *window)
    _check_output_size(*size, x, weight)
    check_residual(residual, (x.shape[0], weight.shape[1] * groups, *size), x.dtype, x)
    out: Tensor = _conv_transpose2d(x, weight, bias, residual, *window, groups, activation, alpha, impl)
    return out
