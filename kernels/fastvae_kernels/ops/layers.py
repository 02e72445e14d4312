"""The pointwise layer ops: `affine`, `logvar` for what a head emits, and `to_bytes` for pixels."""

import math

import torch
from torch import Tensor

from .. import reference
from ..checks import check_activation, check_bounds, check_finite, check_floating, check_like, check_shape
from ..dispatch import resolve_impl
from ..layout import empty_output
from .registration import register

__all__ = ["affine", "logvar", "to_bytes"]

_PARAMETRIZATIONS = ("logvar", "softplus_std", "variance")


@register("affine")
def _affine(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, activation: str, alpha: float | None, impl: str
) -> Tensor:
    if resolve_impl("affine", impl, x.device, x.dtype) == "triton":
        from ..triton.affine import affine as implementation

        return implementation(x, scale, shift, activation, alpha)
    return reference.affine(x, scale, shift, activation, alpha)


@_affine.register_fake
def _(x: Tensor, scale: Tensor | None, shift: Tensor | None, activation: str, alpha: float | None, impl: str) -> Tensor:
    return empty_output(x, x.shape)


def affine(
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    activation: str = "identity",
    alpha: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """act(x * scale + shift), computed in float32 (float64 for float64).

    x: [n, c, ...] floating. scale, shift: [c], along axis 1, or of x.shape[1:], of any floating dtype, or
    None. Returns a new tensor of x's shape and dtype, channels_last if x is. `alpha` is leaky_relu's negative
    slope (0.01) or elu's alpha (1.0), None for other activations.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_activation(activation, alpha)
    check_floating("x", x)
    if x.dim() < 2:
        raise ValueError(f"x must have at least 2 axes; found shape {tuple(x.shape)}")
    for name, parameter in (("scale", scale), ("shift", shift)):
        if parameter is not None:
            check_like(name, parameter, "x", x, dtype=False)
            check_shape(name, parameter, (x.shape[1],), x.shape[1:])
    out: Tensor = _affine(x, scale, shift, activation, alpha, impl)
    return out


@register("logvar")
def _logvar(
    raw: Tensor, parametrization: str, eps: float, minimum: float | None, maximum: float | None, impl: str
) -> Tensor:
    if resolve_impl("logvar", impl, raw.device, raw.dtype) == "triton":
        from ..triton.logvar import logvar as implementation

        return implementation(raw, parametrization, eps, minimum, maximum)
    return reference.logvar(raw, parametrization, eps, minimum, maximum)


@_logvar.register_fake
def _(raw: Tensor, parametrization: str, eps: float, minimum: float | None, maximum: float | None, impl: str) -> Tensor:
    return empty_output(raw, raw.shape)


def logvar(
    raw: Tensor,
    *,
    parametrization: str,
    eps: float = 0.0,
    minimum: float | None = None,
    maximum: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """The log-variance that a head's output `raw` stands for, clamped to [minimum, maximum] where given.

    parametrization: "logvar" takes raw as it is; "softplus_std" is 2 log(softplus(raw) + eps), which for very
    negative raw and eps 0 goes to 2 raw, not to -inf; "variance" is log(raw + eps), at least the logarithm
    of the smallest normal number of the precision computed in. raw: any shape, floating; the result has its
    shape and dtype.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    if parametrization not in _PARAMETRIZATIONS:
        accepted = ", ".join(_PARAMETRIZATIONS)
        raise ValueError(f"parametrization must be one of {accepted}; found {parametrization!r}")
    check_floating("raw", raw)
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite number of at least 0; found {eps}")
    check_bounds(minimum, maximum)
    out: Tensor = _logvar(raw, parametrization, eps, minimum, maximum, impl)
    return out


@register("to_bytes")
def _to_bytes(x: Tensor, scale: float, shift: float, impl: str) -> tuple[Tensor, Tensor]:
    if resolve_impl("to_bytes", impl, x.device, x.dtype) == "triton":
        from ..triton.to_bytes import to_bytes as implementation

        return implementation(x, scale, shift)
    return reference.to_bytes(x, scale, shift)


@_to_bytes.register_fake
def _(x: Tensor, scale: float, shift: float, impl: str) -> tuple[Tensor, Tensor]:
    rows, *shape = x.shape
    shape = [*shape[1:], shape[0]] if x.dim() == 4 else shape
    return x.new_empty(rows, *shape, dtype=torch.uint8), x.new_empty(rows, dtype=torch.bool)


def to_bytes(x: Tensor, *, scale: float = 1.0, shift: float = 0.0, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """The bytes of pixels: 255 (x scale + shift), clamped and rounded, in float32 (float64 for float64); and NaN.

    x: [n, ...] floating, of at least 2 axes. Returns uint8, contiguous, of x's shape, but images [n, c, h, w] as
    [n, h, w, c]: x scale + shift clamped to [0, 1], times 255, rounded to nearest with ties to even. By default x in
    [0, 1] spans the range. A byte has no NaN: it becomes 0, and bool [n], the second result, says in which rows.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_floating("x", x)
    if x.dim() < 2:
        raise ValueError(f"x must have at least 2 axes; found shape {tuple(x.shape)}")
    check_finite("scale", scale)
    check_finite("shift", shift)
    out: tuple[Tensor, Tensor] = _to_bytes(x, scale, shift, impl)
    return out
