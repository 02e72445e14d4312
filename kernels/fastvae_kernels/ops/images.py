"""The ops on images besides convolutions: `group_norm` and `attention`."""

import math

import torch
from torch import Tensor

from .. import library, reference
from ..checks import check_activation, check_divides, check_floating, check_like, check_shape
from ..dispatch import resolve_impl
from ..layout import empty_output
from .norms import applying, check_out_scale
from .registration import register

__all__ = ["attention", "group_norm"]


@register("group_norm")
def _group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    activation: str,
    alpha: float | None,
    out_scale: float | None,
    impl: str,
) -> Tensor:
    if applying("group_norm", x, out_scale, impl) == "triton":
        from ..triton.norm_apply import group_norm as implementation

        return implementation(x, weight, bias, groups, eps, activation, alpha, out_scale)
    return reference.group_norm(x, weight, bias, groups, eps, activation, alpha, out_scale)


@_group_norm.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    activation: str,
    alpha: float | None,
    out_scale: float | None,
    impl: str,
) -> Tensor:
    return empty_output(x, x.shape, None if out_scale is None else torch.float8_e4m3fn)


def group_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    groups: int,
    eps: float = 1e-5,
    activation: str = "identity",
    alpha: float | None = None,
    out_scale: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """act((x - mean) / sqrt(var + eps) * weight + bias), computed in float32 (float64 for float64).

    mean and var, the biased one, are those of a row's group of c / groups consecutive channels, over all their
    pixels. x: [n, c, h, w] floating; weight, bias: [c] of any floating dtype, or None. Returns a new tensor of x's
    shape and dtype, channels_last if x is; images without pixels give images without pixels. With eps 0, a group of
    equal values is 0 / 0. With `out_scale` divided by it and in 8 bits, as by `norm_apply`.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_activation(activation, alpha)
    check_floating("x", x, 4)
    check_divides("groups", groups, "x's channels", x.shape[1])
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite number of at least 0; found {eps}")
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None:
            check_like(name, parameter, "x", x, dtype=False)
            check_shape(name, parameter, (x.shape[1],))
    check_out_scale(out_scale)
    out: Tensor = _group_norm(x, weight, bias, groups, eps, activation, alpha, out_scale, impl)
    return out


@register("attention")
def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, impl: str) -> Tensor:
    chosen = resolve_impl("attention", impl, q.device, q.dtype)
    if chosen == "triton":
        from ..triton.attention import attention as implementation

        return implementation(q, k, v, heads)
    if chosen == "library":
        return library.attention(q, k, v, heads)
    return reference.attention(q, k, v, heads)


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, heads: int, impl: str) -> Tensor:
    return empty_output(q, (q.shape[0], v.shape[1], *q.shape[2:]))


def attention(q: Tensor, k: Tensor, v: Tensor, *, heads: int = 1, impl: str = "auto") -> Tensor:
    """softmax(q k^T / sqrt(c / heads)) v, pixels attending to pixels; in float32 (float64 for float64), never in TF32.

    q: [n, c, h, w]; k: [n, c, h', w']; v: [n, e, h', w']; all of one floating dtype. Each head has c / heads and
    e / heads consecutive channels. Returns [n, e, h, w], channels_last if q is. There must be a channel in q and a
    pixel in k; q may have no pixels, v no channels.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_floating("q", q, 4)
    for name, other in (("k", k), ("v", v)):
        check_like(name, other, "q", q)
        check_floating(name, other, 4)
    check_shape("k", k, (*q.shape[:2], *k.shape[2:]))
    check_shape("v", v, (q.shape[0], v.shape[1], *k.shape[2:]))
    check_divides("heads", heads, "q's channels", q.shape[1])
    check_divides("heads", heads, "v's channels", v.shape[1])
    if not q.shape[1]:
        raise ValueError(f"q must have at least one channel; found shape {tuple(q.shape)}")
    if 0 in k.shape[2:]:
        raise ValueError(f"k must have at least one pixel; found shape {tuple(k.shape)}")
    out: Tensor = _attention(q, k, v, heads, impl)
    return out
