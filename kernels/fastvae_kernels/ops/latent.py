"""The ops around the latent: `gaussian_head` and `bottleneck`, and `split_head` for a merged head's weights."""

import torch
from torch import Tensor

from .. import reference
from ..checks import (
    check_activation,
    check_bounds,
    check_floating,
    check_noise,
    check_precision,
    check_shape,
    check_weights,
)
from ..dispatch import resolve_impl
from .registration import register

__all__ = ["bottleneck", "gaussian_head", "split_head"]

_LAYOUTS = ("chunked", "interleaved")


def split_head(weight: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """The mean and log-variance halves, as views, of the weight [2 latent, in] or bias [2 latent] of a merged head.

    layout: "chunked" for the halves one after the other, "interleaved" for rows that take turns; mean first.

    Raises ValueError for another layout and for an odd number of rows.
    """
    if layout not in _LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(_LAYOUTS)}; found {layout!r}")
    if weight.dim() == 0 or weight.shape[0] % 2:
        raise ValueError(f"weight must have an even number of rows; found shape {tuple(weight.shape)}")
    if layout == "interleaved":
        return weight[0::2], weight[1::2]
    half = weight.shape[0] // 2
    return weight[:half], weight[half:]


def _row_sums(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def _check_head(
    x: Tensor, mean_weight: Tensor, mean_bias: Tensor | None, logvar_weight: Tensor, logvar_bias: Tensor | None
) -> None:
    check_floating("x", x, 2)
    check_floating("mean_weight", mean_weight, 2)
    latent = mean_weight.shape[0]
    for part, weight, bias in (("mean", mean_weight, mean_bias), ("logvar", logvar_weight, logvar_bias)):
        check_floating(f"{part}_weight", weight, 2)
        check_shape(f"{part}_weight", weight, (latent, x.shape[1]))
        check_weights(x, weight, bias, latent, ("x", f"{part}_weight", f"{part}_bias"))


def _check_draw(n: int, seed: int | None, start: int, stream: int, samples: int | None) -> int | None:
    """Check the coordinates of noise, if there is any, and give `seed` as the signed int64 of the same bits."""
    if seed is not None:
        return check_noise(n, seed, start, stream, samples)
    if samples is not None:
        raise ValueError(f"samples must be None where seed is None, because z is the mean; found {samples}")
    check_noise(n, 0, start, stream, None)
    return None


@register("gaussian_head")
def _gaussian_head(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    seed: int | None,
    start: int,
    stream: int,
    samples: int | None,
    minimum: float | None,
    maximum: float | None,
    posterior: bool,
    precision: str,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if resolve_impl("gaussian_head", impl, x.device, x.dtype) == "triton":
        from ..triton.gaussian_head import gaussian_head as implementation
    else:
        implementation = reference.gaussian_head
    head = (x, mean_weight, mean_bias, logvar_weight, logvar_bias)
    return implementation(*head, seed, start, stream, samples, minimum, maximum, posterior, precision)


@_gaussian_head.register_fake
def _(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    seed: int | None,
    start: int,
    stream: int,
    samples: int | None,
    minimum: float | None,
    maximum: float | None,
    posterior: bool,
    precision: str,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (x.shape[0], mean_weight.shape[0])
    z = x.new_empty(shape if samples is None else (samples, *shape))
    mean, logvar = (x.new_empty(shape if posterior else (0,)) for _ in range(2))
    return z, _row_sums(x), mean, logvar


def gaussian_head(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    *,
    seed: int | None = None,
    start: int = 0,
    stream: int = 0,
    samples: int | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    posterior: bool = False,
    precision: str = "ieee",
    impl: str = "auto",
) -> tuple[Tensor, ...]:
    """Draw z from the posterior an encoder's last layer describes, and KL(q ‖ N(0, I)) per row.

    mean = x @ mean_weight.T + mean_bias; logvar likewise, clamped to [minimum, maximum] where given; both stay in
    float32 (float64 for float64) until z = mean + exp(logvar / 2) ε, ε = sample_normal(...), is rounded.
    Without a `seed`, z is the mean. x: [n, in]; weights: [latent, in], such as the views `split_head` gives;
    biases: [latent] or None; all of one floating dtype. precision: as in `linear`.

    Returns (z, kl), or (z, kl, mean, logvar) if `posterior`: z [n, latent], or [samples, n, latent] if `samples`
    is an int, mean and logvar [n, latent] in x's dtype, kl [n] in nats, float32 (float64 for float64). Nothing is
    NaN where mean and logvar are finite; exp(logvar / 2) saturates at the largest finite number.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    _check_head(x, mean_weight, mean_bias, logvar_weight, logvar_bias)
    check_bounds(minimum, maximum)
    check_precision(precision, "x", x)
    signed = _check_draw(x.shape[0], seed, start, stream, samples)
    head = (x, mean_weight, mean_bias, logvar_weight, logvar_bias)
    noise = (signed, start, stream, samples)
    z, kl, mean, logvar = _gaussian_head(*head, *noise, minimum, maximum, posterior, precision, impl)
    return (z, kl, mean, logvar) if posterior else (z, kl)


@register("bottleneck")
def _bottleneck(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    alpha: float | None,
    seed: int | None,
    start: int,
    stream: int,
    minimum: float | None,
    maximum: float | None,
    precision: str,
    impl: str,
) -> tuple[Tensor, Tensor]:
    if resolve_impl("bottleneck", impl, x.device, x.dtype) == "triton":
        from ..triton.bottleneck import bottleneck as implementation
    else:
        implementation = reference.bottleneck
    layers = (x, mean_weight, mean_bias, logvar_weight, logvar_bias, weight, bias, activation, alpha)
    return implementation(*layers, seed, start, stream, minimum, maximum, precision)


@_bottleneck.register_fake
def _(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    alpha: float | None,
    seed: int | None,
    start: int,
    stream: int,
    minimum: float | None,
    maximum: float | None,
    precision: str,
    impl: str,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], weight.shape[0]), _row_sums(x)


def bottleneck(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "identity",
    alpha: float | None = None,
    seed: int | None = None,
    start: int = 0,
    stream: int = 0,
    minimum: float | None = None,
    maximum: float | None = None,
    precision: str = "ieee",
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`gaussian_head` and then `linear` of its z: from an encoder's hidden layer to a decoder's first.

    x: [n, in]; head as in `gaussian_head`; weight: [out, latent]; bias: [out] or None; all of one floating dtype,
    which z is rounded to before the second product. Returns y = act(z @ weight.T + bias), [n, out], in that dtype
    and kl [n] in nats, float32 (float64 for float64). Without a `seed`, z is the mean.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_activation(activation, alpha)
    _check_head(x, mean_weight, mean_bias, logvar_weight, logvar_bias)
    check_floating("weight", weight, 2)
    check_shape("weight", weight, (weight.shape[0], mean_weight.shape[0]))
    check_weights(x, weight, bias, weight.shape[0])
    check_bounds(minimum, maximum)
    check_precision(precision, "x", x)
    signed = _check_draw(x.shape[0], seed, start, stream, None)
    layers = (x, mean_weight, mean_bias, logvar_weight, logvar_bias, weight, bias, activation, alpha)
    y, kl = _bottleneck(*layers, signed, start, stream, minimum, maximum, precision, impl)
    return y, kl
