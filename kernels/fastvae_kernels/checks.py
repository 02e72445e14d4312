"""Argument checks shared by the public ops: each names the argument, what was expected and what was found."""

from typing import Any

import torch
from torch import Tensor

__all__ = [
    "ACTIVATIONS",
    "check_activation",
    "check_floating",
    "check_int",
    "check_like",
    "check_noise",
    "check_shape",
    "check_weights",
    "pair",
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


def check_floating(name: str, x: Tensor, dims: int | None = None) -> None:
    """`x` is a tensor of one of the four floating dtypes, with `dims` axes if that is given."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; found {type(x).__name__}")
    if x.dtype not in _FLOATING:
        raise TypeError(f"{name} must be float32, float64, bfloat16 or float16; found {x.dtype}")
    if dims is not None and x.dim() != dims:
        raise ValueError(f"{name} must have {dims} axes; found shape {tuple(x.shape)}")


def check_shape(name: str, x: Tensor, *accepted: tuple[int, ...]) -> None:
    """`x` has one of the accepted shapes."""
    if not any(tuple(x.shape) == tuple(shape) for shape in accepted):
        wanted = " or ".join(str(tuple(shape)) for shape in accepted)
        raise ValueError(f"{name} must have shape {wanted}; found {tuple(x.shape)}")


def check_like(name: str, x: Tensor, other_name: str, other: Tensor, *, dtype: bool = True) -> None:
    """`x` is a floating tensor on `other`'s device and, if `dtype`, of its dtype."""
    check_floating(name, x)
    if x.device != other.device:
        raise ValueError(f"{name} must be on {other_name}'s device, {other.device}; found {x.device}")
    if dtype and x.dtype != other.dtype:
        raise TypeError(f"{name} must have {other_name}'s dtype, {other.dtype}; found {x.dtype}")


def check_weights(x: Tensor, weight: Tensor, bias: Tensor | None, outputs: int) -> None:
    """`weight` and `bias` are on x's device, of x's dtype, and `bias` is [outputs] or None."""
    check_like("weight", weight, "x", x)
    if bias is not None:
        check_like("bias", bias, "x", x)
        check_shape("bias", bias, (outputs,))


def check_int(name: str, value: Any, low: int, high: int | None = None) -> None:
    """`value` is an int in [low, high)."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} must be an int; found {type(value).__name__}")
    if value < low or (high is not None and value >= high):
        wanted = f"at least {low}" if high is None else f"in [{low}, {high})"
        raise ValueError(f"{name} must be {wanted}; found {value}")


def pair(name: str, value: Any, low: int) -> list[int]:
    """Two ints of at least `low`, from two or from one that counts for both axes."""
    values = [value, value] if isinstance(value, int) else list(value)
    if len(values) != 2:
        raise ValueError(f"{name} must be an int or two of them; found {value!r}")
    for item in values:
        check_int(name, item, low)
    return values


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
