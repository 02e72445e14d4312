"""Argument checks shared by the public ops: each names the argument, what was expected and what was found."""

import math
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "ACTIVATIONS",
    "check_activation",
    "check_bounds",
    "check_divides",
    "check_dtype",
    "check_finite",
    "check_floating",
    "check_int",
    "check_like",
    "check_mask",
    "check_noise",
    "check_precision",
    "check_residual",
    "check_rows",
    "check_sample_shape",
    "check_scale",
    "check_scales",
    "check_shape",
    "check_weights",
    "output_dtype",
    "pair",
    "sides",
]

ACTIVATIONS: tuple[str, ...] = (
    "identity",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "gelu_tanh",
    "silu",
    "tanh",
    "sigmoid",
    "softplus",
)
_TAKES_ALPHA = ("leaky_relu", "elu")
_FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_FLOAT8 = torch.float8_e4m3fn
_PRECISIONS = ("ieee", "tf32")


def check_dtype(name: str, dtype: Any) -> None:
    """`dtype` is one of the four floating dtypes."""
    if dtype not in _FLOATING:
        raise TypeError(f"{name} must be float32, float64, bfloat16 or float16; found {dtype}")


def check_floating(name: str, x: Tensor, dims: int | None = None, *, float8: bool = False) -> None:
    """`x` is a tensor of one of the four floating dtypes or, if `float8`, e4m3, with `dims` axes if that is given."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; found {type(x).__name__}")
    if float8 and x.dtype not in (*_FLOATING, _FLOAT8):
        raise TypeError(f"{name} must be float32, float64, bfloat16, float16 or float8_e4m3fn; found {x.dtype}")
    if not float8:
        check_dtype(name, x.dtype)
    if dims is not None and x.dim() != dims:
        raise ValueError(f"{name} must have {dims} axes; found shape {tuple(x.shape)}")


def check_shape(name: str, x: Tensor, *accepted: tuple[int, ...]) -> None:
    """`x` has one of the accepted shapes."""
    if not any(tuple(x.shape) == tuple(shape) for shape in accepted):
        wanted = " or ".join(str(tuple(shape)) for shape in accepted)
        raise ValueError(f"{name} must have shape {wanted}; found {tuple(x.shape)}")


def check_like(name: str, x: Tensor, other_name: str, other: Tensor, *, dtype: bool = True) -> None:
    """`x` is a floating tensor on `other`'s device and, if `dtype`, of its dtype, which may then be e4m3."""
    check_floating(name, x, float8=dtype and other.dtype == _FLOAT8)
    if x.device != other.device:
        raise ValueError(f"{name} must be on {other_name}'s device, {other.device}; found {x.device}")
    if dtype and x.dtype != other.dtype:
        raise TypeError(f"{name} must have {other_name}'s dtype, {other.dtype}; found {x.dtype}")


def check_weights(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    outputs: int,
    names: tuple[str, str, str] = ("x", "weight", "bias"),
) -> None:
    """`weight` and `bias` are on x's device, of x's dtype, and `bias` is [outputs] or None.

    With e4m3 x, `bias` may have any of the four floating dtypes.
    """
    x_name, weight_name, bias_name = names
    check_like(weight_name, weight, x_name, x)
    if bias is not None:
        check_like(bias_name, bias, x_name, x, dtype=x.dtype != _FLOAT8)
        check_shape(bias_name, bias, (outputs,))


def check_precision(precision: str, name: str, x: Tensor) -> None:
    """`precision` is "ieee", or "tf32" for a float32 `x`."""
    if precision not in _PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(_PRECISIONS)}; found {precision!r}")
    if precision == "tf32" and x.dtype != torch.float32:
        raise ValueError(f"precision 'tf32' needs a float32 {name}; found {x.dtype}")


def check_scale(name: str, scale: Tensor | None, x: Tensor, size: int) -> None:
    """For e4m3 `x`, `scale` is float32 of shape [size]; for other dtypes it is None."""
    if x.dtype != _FLOAT8:
        if scale is not None:
            raise ValueError(f"{name} must be None unless x is torch.float8_e4m3fn; found x of {x.dtype}")
        return
    if not isinstance(scale, Tensor) or scale.dtype != torch.float32:
        found = scale.dtype if isinstance(scale, Tensor) else scale
        raise TypeError(f"{name} must be a float32 tensor where x is torch.float8_e4m3fn; found {found}")
    check_shape(name, scale, (size,))
    if scale.device != x.device:
        raise ValueError(f"{name} must be on x's device, {x.device}; found {scale.device}")


def check_scales(x: Tensor, x_scale: Tensor | None, weight_scale: Tensor | None, outputs: int) -> None:
    """For e4m3 `x` its scales, float32 of shape [n] and [outputs], are there; for other dtypes they are not."""
    check_scale("x_scale", x_scale, x, x.shape[0])
    check_scale("weight_scale", weight_scale, x, outputs)


def output_dtype(x: Tensor, out_dtype: torch.dtype | None) -> torch.dtype:
    """What a product's output has: `out_dtype`, one of the four floating ones, or x's, and bfloat16 for e4m3."""
    if out_dtype is None:
        return torch.bfloat16 if x.dtype == _FLOAT8 else x.dtype
    check_dtype("out_dtype", out_dtype)
    return out_dtype


def check_residual(residual: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, x: Tensor) -> None:
    """`residual` is None, or has the output's shape and dtype and is on x's device."""
    if residual is None:
        return
    check_floating("residual", residual)
    check_shape("residual", residual, shape)
    if residual.dtype != dtype:
        raise TypeError(f"residual must have the output's dtype, {dtype}; found {residual.dtype}")
    if residual.device != x.device:
        raise ValueError(f"residual must be on x's device, {x.device}; found {residual.device}")


def check_rows(name: str, rows: int, data_name: str, n: int) -> None:
    """`rows` is a whole number of samples for each of the `n` rows of data."""
    if rows % n if n else rows:
        raise ValueError(f"{name} must have a multiple of {data_name}'s {n} rows; found {rows}")


def check_sample_shape(name: str, parameter: Tensor, data_name: str, data: Tensor) -> None:
    """`parameter` holds a whole number of samples for each row of `data`, floating and on the same device."""
    check_like(data_name, data, name, parameter, dtype=False)
    if parameter.dim() == 0 or parameter.dim() != data.dim() or parameter.shape[1:] != data.shape[1:]:
        wanted = f"(samples * n, ...) for {data_name} of shape (n, ...) = {tuple(data.shape)}"
        raise ValueError(f"{name} must have shape {wanted}; found {tuple(parameter.shape)}")
    check_rows(name, parameter.shape[0], data_name, data.shape[0])


def check_mask(mask: Tensor | None, data_name: str, data: Tensor) -> None:
    """`mask` is bool, of data's shape and on its device, or None."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a torch.bool tensor; found {found}")
    check_shape("mask", mask, data.shape)
    if mask.device != data.device:
        raise ValueError(f"mask must be on {data_name}'s device, {data.device}; found {mask.device}")


def check_bounds(minimum: float | None, maximum: float | None) -> None:
    """`minimum` is at most `maximum` where both are given."""
    if minimum is not None and maximum is not None and not minimum <= maximum:
        raise ValueError(f"minimum must be at most maximum; found {minimum} and {maximum}")


def check_finite(name: str, value: float) -> None:
    """A number that is neither infinite nor NaN."""
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number; found {value}")


def check_int(name: str, value: Any, low: int, high: int | None = None) -> None:
    """`value` is an int in [low, high)."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} must be an int; found {type(value).__name__}")
    if value < low or (high is not None and value >= high):
        wanted = f"at least {low}" if high is None else f"in [{low}, {high})"
        raise ValueError(f"{name} must be {wanted}; found {value}")


def check_divides(name: str, parts: int, whole_name: str, whole: int) -> None:
    """`parts` is an int of at least 1 that divides `whole`."""
    check_int(name, parts, 1)
    if whole % parts:
        raise ValueError(f"{name} must divide {whole_name}, {whole}; found {parts}")


def pair(name: str, value: Any, low: int) -> list[int]:
    """Two ints of at least `low`, from two or from one that counts for both axes."""
    values = [value, value] if isinstance(value, int) else list(value)
    if len(values) != 2:
        raise ValueError(f"{name} must be an int or two of them; found {value!r}")
    for item in values:
        check_int(name, item, low)
    return values


def sides(name: str, value: Any) -> list[int]:
    """Top, left, bottom and right, none negative; from four ints, or from one or two as :func:`pair` takes them."""
    if isinstance(value, int) or len(value) != 4:
        if not isinstance(value, int) and len(value) != 2:
            raise ValueError(f"{name} must be an int, two of them or four; found {value!r}")
        return 2 * pair(name, value, 0)
    for item in value:
        check_int(name, item, 0)
    return list(value)


def check_activation(activation: str, alpha: float | None) -> None:
    """`activation` is one of ACTIVATIONS, and `alpha` is given only to those that take it."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; found {activation!r}")
    if alpha is not None and activation not in _TAKES_ALPHA:
        raise ValueError(f"alpha must be None for activation {activation!r}; found {alpha}")


def check_noise(n: int, seed: int, start: int, stream: int, samples: int | None) -> int:
    """Check the coordinates of noise, and give `seed` as the signed int64 of the same bits."""
    check_int("seed", seed, 0, 2**64)
    check_int("start", start, 0, 2**63 - n)
    if samples is not None:
        check_int("samples", samples, 0, 2**32)
    last = max((1 if samples is None else samples) - 1, 0)
    check_int("stream", stream, 0, 2**32 - last)
    return seed - 2**64 if seed >= 2**63 else seed
