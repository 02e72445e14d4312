"""Arguments that every implementation of an op is tried on: small, odd and awkward, and the shapes of real models.

Each op has named cases; a case is a function of dtype and device that gives keyword arguments of the public op.
Cases of one column have five rows where a budget comes from eager's error, because on one number it may have none.
"""

from typing import Any

import torch

from .case_maker import Case, Maker
from .cases_convolutions import CONV, CONV_IMAGE, CONV_SCORE, CONV_STATISTICS, CONV_TRANSPOSE
from .cases_dense import bottleneck, eight_bits, head, linear, linear_prior, linear_tf32, quantize
from .cases_images import attention, channel_statistics, group_norm, norm_affine, norm_apply
from .cases_scores import LIKELIHOODS, bernoulli, elbo, elbo_loss, gaussian, linear_score, squared
from .checks import ACTIVATIONS

__all__ = ["CASES", "ROW_SHAPES", "Case"]

ROW_SHAPES: tuple[tuple[int, int], ...] = ((1, 1), (1, 4), (2, 3), (3, 130), (5, 16), (17, 20), (33, 5), (70, 8))
"""(rows, dim) for the row-wise ops: one of each, dims on either side of 4 and of a tile, rows past a tile."""


def _channels_last(inner: Case, *names: str) -> Case:
    """Those arguments, by default x, with channels innermost."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        arguments = inner(dtype, device)
        for name in names or ("x",):
            arguments[name] = arguments[name].contiguous(memory_format=torch.channels_last)
        return arguments

    return case


def _affine(
    shape: tuple[int, ...], scale: tuple[int, ...] | None, shift: tuple[int, ...] | None, activation: str
) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        return {
            "x": make.normal(*shape, scale=3.0),
            "scale": None if scale is None else make.normal(*scale),
            "shift": None if shift is None else make.normal(*shift),
            "activation": activation,
        }

    return case


def _logvar(shape: tuple[int, ...], parametrization: str, **options: Any) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        raw = make.unit(*shape) + 0.01 if parametrization == "variance" else make.normal(*shape, scale=2.0)
        return {"raw": raw, "parametrization": parametrization, **options}

    return case


def _to_bytes(shape: tuple[int, ...], **options: Any) -> Case:
    """Some values beyond either end of the range."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        return {"x": 0.4 + Maker(dtype, device).normal(*shape), **options}

    return case


def _noise(n: int, dim: int, samples: int | None = None, **where: int) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        return {"n": n, "dim": dim, "samples": samples, **where, "dtype": dtype, "device": device}

    return case


def _reparameterize(n: int, dim: int, samples: int | None, **where: int) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        mean, logvar = make.normal(n, dim), make.normal(n, dim, scale=2.0)
        return {"mean": mean, "logvar": logvar, "samples": samples, **where}

    return case


_FAR: dict[str, Any] = {"seed": 2**64 - 5, "start": 2**32 - 2, "stream": 2**32 - 3}
_NOISE = {
    "row": _noise(1, 1, seed=0),
    "odd": _noise(3, 7, seed=11, start=5),
    "samples": _noise(5, 16, 2, **_FAR),
}
_LINEAR = {
    "1x1x1": linear(1, 1, 1),
    "relu": linear(3, 7, 5, "relu"),
    "residual": linear(17, 33, 9, "silu", residual=True),
    "rows": linear(70, 33, 130, "gelu"),
    **{name: linear(9, 20, 13, name) for name in ("elu", "selu", "gelu_tanh", "tanh", "sigmoid", "softplus")},
    "leaky_relu": linear(9, 20, 13, "leaky_relu", alpha=0.3),
    "tf32": linear_tf32(linear(5, 130, 7, "leaky_relu"), exact=False),
    "tf32_exact": linear_tf32(linear(5, 130, 8), exact=True),
    "wide": linear(3, 33, 7, wide=True),
    "e4m3": eight_bits(linear(17, 33, 7, "relu")),
}
_HEADS = {
    "5x1x1": head(5, 1, 1, seed=0),
    "chunked": head(17, 33, 4, "chunked", seed=2, posterior=True),
    "interleaved": head(9, 20, 13, "interleaved", mean=None, logvar=None, seed=2**64 - 5, start=2**32 - 2, samples=3),
    "mean": head(5, 130, 3, mean=None, in_tf32=True, posterior=True),
    "large_mean": head(33, 7, 33, "interleaved", mean=1000.0, seed=3, stream=2**32 - 1),
    "clamped": head(7, 3, 7, logvar=4.0, minimum=3.5, maximum=4.5, seed=4, samples=1),
}
_BOTTLENECKS = {
    "5x1x1x1": bottleneck(head(5, 1, 1, seed=0), 1),
    "chunked": bottleneck(head(17, 33, 4, "chunked", seed=2), 9, "silu"),
    "interleaved": bottleneck(head(9, 20, 13, "interleaved", mean=None, seed=5, start=2**32 - 2), 33, "elu", alpha=0.5),
    "mean": bottleneck(head(5, 130, 3, in_tf32=True), 7, "selu"),
    "large_mean": bottleneck(head(33, 7, 33, mean=1000.0, seed=3, stream=2**32 - 1), 4, "leaky_relu"),
    "clamped": bottleneck(head(7, 3, 7, logvar=4.0, minimum=3.5, maximum=4.5, seed=4), 130, "tanh"),
}
_GROUP_NORM = {
    "1x1": group_norm((3, 4, 1, 1), 2),
    "silu": group_norm((2, 6, 3, 5), 2, activation="silu"),
    "one_group": group_norm((2, 5, 4, 3), 1, eps=0.5, activation="leaky_relu", alpha=0.3),
    "channels": group_norm((2, 2, 9, 8), 2, mean=30.0, eps=0.0, bias=False),
    "plain": group_norm((1, 8, 1, 3), 4, weight=False, bias=False, activation="tanh"),
    "shift": group_norm((2, 4, 2, 4), 2, weight=False, activation="gelu"),
    "e4m3": group_norm((2, 6, 5, 7), 2, activation="silu", out_scale=2.0**-7),
}
_STATISTICS = {
    "1x1": channel_statistics((5, 4, 1, 1), block=3),
    "odd": channel_statistics((2, 5, 7, 9), block=26, rest=True),
    "one_block": channel_statistics((2, 3, 4, 5), block=20),
    "tiles": channel_statistics((2, 6, 20, 56), block=1050, rest=True),
    "pixels": channel_statistics((2, 3, 1, 3), block=1),
    "mean": channel_statistics((2, 70, 1, 7), mean=30.0, block=8),
}
_NORM_AFFINE = {
    "one": norm_affine(2, 2, (1,), block=1, groups=2, eps=0.5),
    "blocks": norm_affine(2, 6, (8, 8, 8, 3), block=8, groups=2, rest=True),
    "bands": norm_affine(2, 6, (7, 2, 7, 7, 1), groups=1, eps=0.1),
    "plain": norm_affine(2, 4, (5, 5), weight=False, rest=True, block=5, groups=2),
    "many": norm_affine(2, 35, (4,) * 70, block=4, groups=1),
}
_NORM_APPLY = {
    "1x1": norm_apply((5, 4, 1, 1)),
    "silu": norm_apply((2, 6, 5, 7), activation="silu"),
    "leaky_relu": norm_apply((2, 70, 9, 8), activation="leaky_relu", alpha=0.3),
    "e4m3": norm_apply((2, 6, 5, 7), activation="silu", out_scale=2.0**-7),
}
_ATTENTION = {
    "1x1": attention((1, 1, 1, 1)),
    "square": attention((2, 8, 5, 5)),
    "odd": attention((2, 5, 3, 7), (9, 15), 7),
    "heads": attention((2, 6, 4, 3), outputs=9, heads=3),
    "sharp": attention((2, 33, 6, 4), scale=8.0),
}

CASES: dict[str, dict[str, Case]] = {
    "sample_normal": _NOISE,
    "sample_uniform": _NOISE,
    "reparameterize": {
        **{
            f"{n}x{dim}": _reparameterize(n, dim, 2, seed=11, start=5, stream=2)
            for n, dim in ((5, 1), *ROW_SHAPES[3::2])
        },
        "one": _reparameterize(5, 7, None, **_FAR),
    },
    "linear": {**_LINEAR, "e4m3_residual": eight_bits(linear(3, 130, 18, residual=True))},
    "linear_prior": {
        "1x1x1": linear_prior(1, 1, 1, seed=0),
        "odd": linear_prior(3, 7, 5, "leaky_relu", seed=7, start=1),
        "rows": linear_prior(33, 33, 9, "gelu", **_FAR),
        "tf32": linear_prior(5, 130, 33, "softplus", in_tf32=True, seed=1),
    },
    "quantize_rows": {
        "row": quantize(1, 1, 1.0),
        "odd": quantize(3, 7, 1.0),
        "rows": quantize(70, 33, 3e3),
        "columns": quantize(5, 130, 1e-2),
        "subnormal": quantize(4, 33, 1e-36),
        "zeros": quantize(3, 5, 0.0),
    },
    "gaussian_head": _HEADS,
    "bottleneck": _BOTTLENECKS,
    "conv2d": {**CONV, "channels_last": _channels_last(CONV["residual"], "x", "weight", "residual")},
    "channel_statistics": {**_STATISTICS, "by_pixel": _channels_last(_STATISTICS["tiles"])},
    "norm_affine": _NORM_AFFINE,
    "norm_apply": {**_NORM_APPLY, "channels_last": _channels_last(_NORM_APPLY["silu"])},
    "conv2d_statistics": CONV_STATISTICS,
    "conv_image": CONV_IMAGE,
    "conv_score": CONV_SCORE,
    "conv_transpose2d": {**CONV_TRANSPOSE, "channels_last": _channels_last(CONV_TRANSPOSE["dilation"])},
    "group_norm": {**_GROUP_NORM, "channels_last": _channels_last(_GROUP_NORM["silu"])},
    "attention": {**_ATTENTION, "channels_last": _channels_last(_ATTENTION["odd"], "q", "k", "v")},
    "affine": {
        **{activation: _affine((5, 7), (7,), (7,), activation) for activation in ACTIVATIONS},
        "copy": _affine((3, 4), None, None, "identity"),
        "per_channel": _affine((2, 3, 5, 4), (3,), (3,), "silu"),
        "elementwise": _affine((2, 3, 5, 4), (3, 5, 4), None, "identity"),
        "shift": _affine((2, 3, 5, 4), None, (3,), "relu"),
        "channels_last": _channels_last(_affine((2, 3, 5, 4), (3,), (3, 5, 4), "tanh")),
    },
    "logvar": {
        "logvar": _logvar((5, 7), "logvar", minimum=-1.0, maximum=1.5),
        "softplus_std": _logvar((5, 7), "softplus_std"),
        "softplus_std_eps": _logvar((3, 2, 4), "softplus_std", eps=1e-3, maximum=1.0),
        "variance": _logvar((5, 7), "variance"),
        "variance_eps": _logvar((9,), "variance", eps=1e-4, minimum=-3.0),
    },
    "to_bytes": {
        "row": _to_bytes((1, 1)),
        "odd": _to_bytes((7, 33)),
        "images": _to_bytes((3, 3, 5, 4), scale=0.5, shift=0.5),
        "channels_innermost": _channels_last(_to_bytes((3, 3, 5, 4), scale=0.25, shift=0.5)),
    },
    "bernoulli_nll": {
        "column": bernoulli(5, (5, 1), masked=False),
        "odd": bernoulli(7, (7, 33), masked=True),
        "samples": bernoulli(12, (4, 3, 5), masked=True),
        "images": bernoulli(6, (3, 2, 9, 8), masked=False),
        "by_pixel": _channels_last(bernoulli(6, (3, 2, 9, 8), masked=True), "logits", "x", "mask"),
    },
    "gaussian_nll": {
        "column": gaussian(5, (5, 1), masked=False, logvar="row"),
        "odd": gaussian(7, (7, 33), masked=True, logvar="row"),
        "shared": gaussian(12, (4, 3, 5), masked=True, logvar="shared"),
        "scalar": gaussian(6, (3, 2, 9, 8), masked=False, logvar="scalar"),
        "by_pixel": _channels_last(gaussian(6, (3, 2, 9, 8), masked=False, logvar="row"), "mean", "x"),
        "samples": gaussian(12, (3, 21), masked=True, logvar="row"),
    },
    "squared_error": {
        "column": squared(5, (5, 1)),
        "samples": squared(12, (4, 33)),
        "images": squared(3, (3, 2, 9, 8)),
    },
    **LIKELIHOODS,
    "linear_score": {
        "5x1x1": linear_score(5, 1, (5, 1), "bernoulli"),
        "bernoulli": linear_score(12, 33, (4, 7), "bernoulli", masked=True),
        "outputs": linear_score(17, 7, (17, 130), "bernoulli", in_tf32=True),
        "gaussian": linear_score(6, 20, (3, 33), "gaussian", "sigmoid", logvar="scalar", wide_data=True),
        "spread": linear_score(33, 7, (11, 9), "gaussian", masked=True),
        "squared_error": linear_score(10, 130, (5, 3), "squared_error", "tanh", masked=True),
        "e4m3": eight_bits(linear_score(6, 33, (6, 7), "bernoulli")),
    },
    "elbo": {
        "5x1": elbo(5, (5, 1), 1, "bernoulli"),
        "bernoulli": elbo(12, (4, 33), 7, "bernoulli", masked=True),
        "images": elbo(3, (3, 2, 9, 8), 130, "squared_error", masked=True),
        "by_pixel": _channels_last(elbo(4, (2, 2, 9, 8), 5, "bernoulli"), "output"),
        "gaussian": elbo(17, (17, 7), 3, "gaussian", logvar="scalar", centre=1000.0),
        "shared": elbo(6, (3, 3, 5), 4, "gaussian", masked=True),
        "row": elbo(66, (33, 5), 33, "gaussian", logvar="row"),
    },
    "elbo_loss": {
        "5x1": elbo_loss(elbo(5, (5, 1), 1, "bernoulli"), reduction="none", beta=0.5),
        "bernoulli": elbo_loss(elbo(12, (4, 33), 7, "bernoulli", masked=True), reduction="none"),
        "by_pixel": elbo_loss(_channels_last(elbo(4, (2, 2, 9, 8), 5, "squared_error"), "output"), reduction="none"),
        "gaussian": elbo_loss(elbo(17, (17, 7), 3, "gaussian", logvar="scalar"), reduction="none", beta=4.0),
        "shared": elbo_loss(elbo(6, (3, 3, 5), 4, "gaussian", masked=True), reduction="none"),
        "row": elbo_loss(elbo(66, (33, 5), 33, "gaussian", logvar="row"), reduction="none"),
    },
}
