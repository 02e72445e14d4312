"""The three pieces of a group norm, for images in pieces: statistics, what they mean for a row, and applying it.

`group_norm` is the three in one; apart, statistics may come from a convolution's epilogue or from bands of an image.
"""

import math

import torch
from torch import Tensor

from .. import reference
from ..checks import check_activation, check_divides, check_floating, check_int, check_like, check_shape
from ..dispatch import resolve_impl
from ..layout import empty_output
from .registration import register

__all__ = ["applying", "channel_statistics", "check_out_scale", "norm_affine", "norm_apply"]


@register("channel_statistics")
def _channel_statistics(x: Tensor, block: int, rest: bool, impl: str) -> Tensor:
    if resolve_impl("channel_statistics", impl, x.device, x.dtype) == "triton":
        from ..triton.channel_statistics import channel_statistics as implementation

        return implementation(x, block, rest)
    return reference.channel_statistics(x, block, rest)


@_channel_statistics.register_fake
def _(x: Tensor, block: int, rest: bool, impl: str) -> Tensor:
    n, channels, h, w = x.shape
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(n, -(-h * w // block), channels, 3 if rest else 2, dtype=dtype)


def channel_statistics(x: Tensor, *, block: int, rest: bool = False, impl: str = "auto") -> Tensor:
    """Each channel's mean and sum of squared deviations from it, over blocks of `block` pixels in row-major order.

    x: [n, c, h, w] floating. Returns [n, blocks, c, 2] contiguous in float32 (float64 for float64), mean first, where
    blocks is h * w / block rounded up: the last block has what is left. With `rest` the last axis has a third number,
    what rounding the mean left of it, by which means far larger than the spread keep their accuracy. Triton reads x
    where its rows are contiguous or channels_last, and a copy of it elsewhere.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_floating("x", x, 4)
    check_int("block", block, 1)
    out: Tensor = _channel_statistics(x, block, rest, impl)
    return out


@register("norm_affine")
def _norm_affine(
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pixels: int,
    block: int,
    counts: Tensor | None,
    groups: int,
    eps: float,
    impl: str,
) -> Tensor:
    if resolve_impl("norm_affine", impl, statistics.device, statistics.dtype) == "triton":
        from ..triton.norm_affine import norm_affine as implementation

        return implementation(statistics, weight, bias, pixels, block, counts, groups, eps)
    return reference.norm_affine(statistics, weight, bias, pixels, block, counts, groups, eps)


@_norm_affine.register_fake
def _(
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pixels: int,
    block: int,
    counts: Tensor | None,
    groups: int,
    eps: float,
    impl: str,
) -> Tensor:
    return statistics.new_empty(statistics.shape[0], 3, statistics.shape[2])


def norm_affine(
    statistics: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    pixels: int,
    block: int | None = None,
    counts: Tensor | None = None,
    groups: int,
    eps: float = 1e-5,
    impl: str = "auto",
) -> Tensor:
    """What normalises each channel of each row: mean, scale and shift, [n, 3, c], for `norm_apply`.

    statistics: [n, blocks, c, 2 or 3] as of `channel_statistics`, float32 or float64, which the result has too. pixels:
    how many an image has, all blocks together. Either block, how many each block but the last has, or counts, how many
    each has, int64 [blocks] on the statistics' device: the blocks of several bands one after the other, say; their
    sum, `pixels`, is not checked. weight, bias: [c] of any floating dtype, or None.

    mean and variance, the biased one, are those of a row's group of c / groups consecutive channels; scale is
    weight / sqrt(variance + eps); (x - mean) * scale + shift is the norm. shift is bias less what rounding the mean
    left, scaled, so that nothing cancels however large the mean. Merged by Chan's formula in one order, without
    atomics: a row's bits depend on nothing but the row.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    if not isinstance(statistics, Tensor) or statistics.dtype not in (torch.float32, torch.float64):
        found = statistics.dtype if isinstance(statistics, Tensor) else type(statistics).__name__
        raise TypeError(f"statistics must be a float32 or float64 tensor; found {found}")
    check_floating("statistics", statistics, 4)
    *leading, channels, _ = statistics.shape
    check_shape("statistics", statistics, (*leading, channels, 2), (*leading, channels, 3))
    check_int("pixels", pixels, 1)
    _check_blocks(statistics, pixels, block, counts)
    check_divides("groups", groups, "statistics' channels", channels)
    _check_eps(eps)
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None:
            check_like(name, parameter, "statistics", statistics, dtype=False)
            check_shape(name, parameter, (channels,))
    out: Tensor = _norm_affine(statistics, weight, bias, pixels, block or pixels, counts, groups, eps, impl)
    return out


def _check_blocks(statistics: Tensor, pixels: int, block: int | None, counts: Tensor | None) -> None:
    """Either `block` or `counts` is given, and says that there are as many blocks as statistics have."""
    blocks = statistics.shape[1]
    if not blocks:
        raise ValueError(f"statistics must have at least one block; found shape {tuple(statistics.shape)}")
    if (block is None) == (counts is None):
        raise ValueError(
            "exactly one of block and counts must be given; found " + ("neither" if counts is None else "both")
        )
    if counts is not None:
        if not isinstance(counts, Tensor) or counts.dtype != torch.int64:
            found = counts.dtype if isinstance(counts, Tensor) else type(counts).__name__
            raise TypeError(f"counts must be an int64 tensor; found {found}")
        check_shape("counts", counts, (blocks,))
        if counts.device != statistics.device:
            raise ValueError(f"counts must be on statistics' device, {statistics.device}; found {counts.device}")
        return
    check_int("block", block, 1)
    assert block is not None
    if -(-pixels // block) != blocks:
        wanted = f"{-(-pixels // block)} blocks for {pixels} pixels in blocks of {block}"
        raise ValueError(f"statistics must have {wanted}; found {blocks}")


def _check_eps(eps: float) -> None:
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite number of at least 0; found {eps}")


def applying(op: str, x: Tensor, out_scale: float | None, impl: str) -> str:
    """The implementation of `norm_apply` or `group_norm`, which must take the result's dtype as well."""
    chosen = resolve_impl(op, impl, x.device, x.dtype)
    if chosen == "triton" and out_scale is not None:
        return resolve_impl(op, impl, x.device, torch.float8_e4m3fn)
    return chosen


def check_out_scale(out_scale: float | None) -> None:
    """It is a positive finite number, or None."""
    if out_scale is not None and not 0 < out_scale < math.inf:
        raise ValueError(f"out_scale must be a positive finite number or None; found {out_scale}")


@register("norm_apply")
def _norm_apply(
    x: Tensor, affine: Tensor, activation: str, alpha: float | None, out_scale: float | None, impl: str
) -> Tensor:
    if applying("norm_apply", x, out_scale, impl) == "triton":
        from ..triton.norm_apply import norm_apply as implementation

        return implementation(x, affine, activation, alpha, out_scale)
    return reference.norm_apply(x, affine, activation, alpha, out_scale)


@_norm_apply.register_fake
def _(x: Tensor, affine: Tensor, activation: str, alpha: float | None, out_scale: float | None, impl: str) -> Tensor:
    return empty_output(x, x.shape, None if out_scale is None else torch.float8_e4m3fn)


def norm_apply(
    x: Tensor,
    affine: Tensor,
    *,
    activation: str = "identity",
    alpha: float | None = None,
    out_scale: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """act((x - mean) * scale + shift) of each row's channels, computed in float32 (float64 for float64).

    x: [n, c, h, w] floating. affine: [n, 3, c], float32 (float64 for float64 x), as of `norm_affine`: mean, scale and
    shift. Returns a new tensor of x's shape and dtype, channels_last if x is. `alpha` is leaky_relu's negative slope
    (0.01) or elu's alpha (1.0), None for other activations. With `out_scale`, a positive number, the result is
    divided by it and returned as float8_e4m3fn, rounded to nearest, ties to even, and saturating at 448.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_activation(activation, alpha)
    check_floating("x", x, 4)
    check_like("affine", affine, "x", x, dtype=False)
    wanted = torch.float64 if x.dtype == torch.float64 else torch.float32
    if affine.dtype != wanted:
        raise TypeError(f"affine must be {wanted} for x of {x.dtype}; found {affine.dtype}")
    check_shape("affine", affine, (x.shape[0], 3, x.shape[1]))
    check_out_scale(out_scale)
    out: Tensor = _norm_apply(x, affine, activation, alpha, out_scale, impl)
    return out
