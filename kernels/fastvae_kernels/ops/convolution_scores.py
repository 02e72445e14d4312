"""A decoder's last convolution with what its output is for: `conv_image` and `conv_score`."""

import torch
from torch import Tensor

from .. import reference
from ..checks import check_finite, check_floating, check_like, check_mask, check_rows, check_shape
from ..dispatch import resolve_impl
from .convolutions import Pair, check_conv, conv_size
from .registration import register
from .scores import accumulated, check_likelihood

__all__ = ["conv_image", "conv_score"]


@register("conv_image")
def _conv_image(
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
    impl: str,
) -> tuple[Tensor, Tensor]:
    window = stride, padding, dilation, activation, alpha
    if resolve_impl("conv_image", impl, x.device, x.dtype) == "triton":
        from ..triton.conv2d import conv_image as implementation

        size = conv_size(x, weight, stride, padding, dilation)
        return implementation(x, weight, bias, scale, shift, *window, size)
    return reference.conv_image(x, weight, bias, scale, shift, *window)


@_conv_image.register_fake
def _(
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
    impl: str,
) -> tuple[Tensor, Tensor]:
    size = conv_size(x, weight, stride, padding, dilation)
    image = x.new_empty(x.shape[0], *size, weight.shape[0], dtype=torch.uint8)
    return image, x.new_empty(x.shape[0], dtype=torch.bool)


def conv_image(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float = 0.5,
    shift: float = 0.5,
    stride: Pair = (1, 1),
    padding: Pair | tuple[int, int, int, int] = (0, 0),
    dilation: Pair = (1, 1),
    activation: str = "identity",
    alpha: float | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The bytes of an image: `to_bytes` of `conv2d`'s v, which is neither rounded nor written to memory.

    x, weight, bias and the window are as in `conv2d`, without groups. Returns uint8 [n, h', w', o], contiguous: v scale
    + shift clamped to [0, 1], times 255, rounded to nearest with ties to even. By default v in [-1, 1] spans the range.
    A v that rounding errors leave beside a tie may come out as either neighbour. A byte has no NaN: it becomes 0, and
    bool [n], the second result, says in which images.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_finite("scale", scale)
    check_finite("shift", shift)
    window = check_conv(x, weight, bias, None, stride, padding, dilation, 1, activation, alpha)
    out: tuple[Tensor, Tensor] = _conv_image(x, weight, bias, scale, shift, *window, activation, alpha, impl)
    return out


@register("conv_score")
def _conv_score(
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
    impl: str,
) -> Tensor:
    if resolve_impl("conv_score", impl, x.device, x.dtype) == "triton":
        from ..triton.conv_score import conv_score as implementation
    else:
        implementation = reference.conv_score
    window = stride, padding, dilation, activation, alpha
    return implementation(x, weight, bias, data, likelihood, logvar, mask, *window)


@_conv_score.register_fake
def _(
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
    impl: str,
) -> Tensor:
    return x.new_empty(x.shape[0], dtype=accumulated(x))


def conv_score(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    data: Tensor,
    *,
    likelihood: str = "bernoulli",
    logvar: Tensor | None = None,
    mask: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair | tuple[int, int, int, int] = (0, 0),
    dilation: Pair = (1, 1),
    activation: str = "identity",
    alpha: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """The score of images under p = act(conv(x, weight) + bias), which is never rounded nor written to memory.

    likelihood: "bernoulli" takes p as logits, and no activation; "gaussian" takes it as the mean, with `logvar` a
    scalar tensor; "squared_error" is Σ (data - p)². x: [s*n, c, h, w], weight: [o, c, kh, kw], bias: [o] or None and
    the window as in `conv2d`, without groups. data: [n, o, h', w'] floating; mask: bool of data's shape, False where
    an entry does not count, or None; row r of x meets row r % n of data. Returns [s*n] in nats, float32 (float64 for
    float64 x).

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    window = check_conv(x, weight, bias, None, stride, padding, dilation, 1, activation, alpha)
    if likelihood == "bernoulli" and activation != "identity":
        raise ValueError(f"activation must be 'identity' for likelihood 'bernoulli'; found {activation!r}")
    check_likelihood(likelihood, "logvar", logvar, "x", x, ())
    check_floating("data", data, 4)
    check_like("data", data, "x", x, dtype=False)
    check_shape("data", data, (data.shape[0], weight.shape[0], *conv_size(x, weight, *window)))
    check_rows("x", x.shape[0], "data", data.shape[0])
    check_mask(mask, "data", data)
    out: Tensor = _conv_score(x, weight, bias, data, likelihood, logvar, mask, *window, activation, alpha, impl)
    return out
