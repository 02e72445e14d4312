"""The dense ops: `linear` and its variants on drawn latents and on 8-bit operands, which `quantize_rows` makes."""

import torch
from torch import Tensor

from .. import reference
from ..checks import (
    check_activation,
    check_floating,
    check_int,
    check_noise,
    check_precision,
    check_residual,
    check_scales,
    check_shape,
    check_weights,
    output_dtype,
)
from ..dispatch import resolve_impl
from .registration import register

__all__ = ["linear", "linear_prior", "quantize_rows"]


@register("linear")
def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    alpha: float | None,
    precision: str,
    x_scale: Tensor | None,
    weight_scale: Tensor | None,
    out_dtype: torch.dtype,
    impl: str,
) -> Tensor:
    if resolve_impl("linear", impl, x.device, x.dtype) == "triton":
        from ..triton.linear import linear as implementation
    else:
        implementation = reference.linear
    return implementation(x, weight, bias, residual, activation, alpha, precision, x_scale, weight_scale, out_dtype)


@_linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    alpha: float | None,
    precision: str,
    x_scale: Tensor | None,
    weight_scale: Tensor | None,
    out_dtype: torch.dtype,
    impl: str,
) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], dtype=out_dtype)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    activation: str = "identity",
    alpha: float | None = None,
    precision: str = "ieee",
    x_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    impl: str = "auto",
) -> Tensor:
    """act(x @ weight.T + bias) + residual, accumulated in float32 (float64 for float64) and rounded once.

    x: [n, in]; weight: [out, in]; bias: [out] or None; all of one floating dtype. residual: [n, out] of the
    output's dtype or None. Returns [n, out] of `out_dtype`, by default x's dtype. `alpha` is leaky_relu's
    negative slope (0.01) or elu's alpha (1.0), None for other activations. precision: "ieee", or for float32
    "tf32", which rounds both operands to 10 explicit mantissa bits, ties to even, and multiplies in float32.

    x and weight may also both be float8_e4m3fn with x_scale [n] and weight_scale [out], float32, as
    `quantize_rows` gives them: act((x @ weight.T) * x_scale[:, None] * weight_scale + bias) + residual, with bias
    of any floating dtype, and bfloat16 the default `out_dtype`.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_activation(activation, alpha)
    check_floating("x", x, 2, float8=True)
    check_floating("weight", weight, 2, float8=True)
    check_shape("weight", weight, (weight.shape[0], x.shape[1]))
    check_weights(x, weight, bias, weight.shape[0])
    check_precision(precision, "x", x)
    check_scales(x, x_scale, weight_scale, weight.shape[0])
    dtype = output_dtype(x, out_dtype)
    check_residual(residual, (x.shape[0], weight.shape[0]), dtype, x)
    out: Tensor = _linear(x, weight, bias, residual, activation, alpha, precision, x_scale, weight_scale, dtype, impl)
    return out


@register("quantize_rows")
def _quantize_rows(x: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    if resolve_impl("quantize_rows", impl, x.device, x.dtype) == "triton":
        from ..triton.quantize_rows import quantize_rows as implementation
    else:
        implementation = reference.quantize_rows
    return implementation(x)


@_quantize_rows.register_fake
def _(x: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    q = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    return q, x.new_empty(x.shape[0], dtype=torch.float32)


def quantize_rows(x: Tensor, *, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """Rows as 8-bit floats with a scale each: q [n, k] in float8_e4m3fn and scale [n] in float32, x ≈ q * scale.

    x: [n, k] floating: activations, or a weight, whose rows are output channels. scale is max |row| / 448, which
    leaves NaN out, at least the smallest normal and at most the largest float32, 1 for a row of zeros;
    q = x / scale is rounded to nearest, ties to even, and saturates at ±448. Both are finite where x is; NaN in
    x is NaN in q and changes nothing else.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_floating("x", x, 2)
    q, scale = _quantize_rows(x, impl)
    return q, scale


@register("linear_prior")
def _linear_prior(
    n: int,
    weight: Tensor,
    bias: Tensor | None,
    seed: int,
    start: int,
    stream: int,
    activation: str,
    alpha: float | None,
    precision: str,
    impl: str,
) -> Tensor:
    if resolve_impl("linear_prior", impl, weight.device, weight.dtype) == "triton":
        from ..triton.linear import linear_prior as implementation
    else:
        implementation = reference.linear_prior
    return implementation(n, weight, bias, seed, start, stream, activation, alpha, precision)


@_linear_prior.register_fake
def _(
    n: int,
    weight: Tensor,
    bias: Tensor | None,
    seed: int,
    start: int,
    stream: int,
    activation: str,
    alpha: float | None,
    precision: str,
    impl: str,
) -> Tensor:
    return weight.new_empty(n, weight.shape[0])


def linear_prior(
    n: int,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    seed: int,
    start: int = 0,
    stream: int = 0,
    activation: str = "identity",
    alpha: float | None = None,
    precision: str = "ieee",
    impl: str = "auto",
) -> Tensor:
    """`linear` of latents drawn from the prior: act(z @ weight.T + bias), z = sample_normal(n, in, ...).

    weight: [out, in]; bias: [out] or None, of one floating dtype, which z is rounded to and the result [n, out]
    has too. Noise, activation and precision are those of `sample_normal` and `linear`.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_activation(activation, alpha)
    check_floating("weight", weight, 2)
    check_int("n", n, 0)
    check_weights(weight, weight, bias, weight.shape[0], ("weight", "weight", "bias"))
    check_precision(precision, "weight", weight)
    seed = check_noise(n, seed, start, stream, None)
    out: Tensor = _linear_prior(n, weight, bias, seed, start, stream, activation, alpha, precision, impl)
    return out
