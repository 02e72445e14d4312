"""Layers of rows of any kind: products, normalisation with constants, activations, and changes of shape alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from fastvae.layers.checks import Shape, check, check_positive


@dataclass(frozen=True)
class Linear:
    """``y = x @ weight.T + bias`` on a flat row: ``(in_features,) -> (out_features,)``."""

    kind: ClassVar[str] = "linear"
    name: str
    in_features: int
    out_features: int
    bias: bool = True

    def __post_init__(self) -> None:
        check_positive(f"linear {self.name!r}", in_features=self.in_features, out_features=self.out_features)

    def output_shape(self, shape: Shape) -> Shape:
        check(
            shape == (self.in_features,),
            f"linear {self.name!r} takes rows of shape ({self.in_features},), found {shape}",
        )
        return (self.out_features,)

    def tensors(self) -> dict[str, Shape]:
        weight = {f"{self.name}.weight": (self.out_features, self.in_features)}
        return weight | ({f"{self.name}.bias": (self.out_features,)} if self.bias else {})


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation with its running statistics over the first axis of a row (channels or features)."""

    kind: ClassVar[str] = "batch_norm"
    name: str
    num_features: int
    eps: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        check_positive(f"batch_norm {self.name!r}", num_features=self.num_features)
        check(self.eps >= 0, f"batch_norm {self.name!r}: eps must not be negative, got {self.eps}")

    def output_shape(self, shape: Shape) -> Shape:
        check(
            len(shape) in (1, 3) and shape[0] == self.num_features,
            f"batch_norm {self.name!r} takes rows whose first axis is {self.num_features}, found {shape}",
        )
        return shape

    def tensors(self) -> dict[str, Shape]:
        keys = ("running_mean", "running_var", *(("weight", "bias") if self.affine else ()))
        return {f"{self.name}.{key}": (self.num_features,) for key in keys}


@dataclass(frozen=True)
class Affine:
    """``y = x * scale + shift``: standardisation before an encoder, or back to data units after a decoder.

    ``shape`` is the row's whole shape, or ``(channels,)`` for one value per channel.
    """

    kind: ClassVar[str] = "affine"
    name: str
    shape: Shape

    def __post_init__(self) -> None:
        check_positive(f"affine {self.name!r}", shape=self.shape)

    def output_shape(self, shape: Shape) -> Shape:
        check(
            self.shape in (shape, shape[:1]),
            f"affine {self.name!r} takes rows of shape {self.shape} (or that many channels), found {shape}",
        )
        return shape

    def tensors(self) -> dict[str, Shape]:
        return {f"{self.name}.scale": self.shape, f"{self.name}.shift": self.shape}


@dataclass(frozen=True)
class Activation:
    """An elementwise function by its name in ``fastvae_kernels.ACTIVATIONS``.

    ``alpha`` is leaky_relu's negative slope (default 0.01) or elu's alpha (default 1.0).
    """

    kind: ClassVar[str] = "activation"
    function: Literal[
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
    ]
    alpha: float | None = None

    def __post_init__(self) -> None:
        check(
            self.alpha is None or self.function in ("leaky_relu", "elu"),
            f"activation {self.function!r} takes no alpha, got {self.alpha}",
        )

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def tensors(self) -> dict[str, Shape]:
        return {}


@dataclass(frozen=True)
class Flatten:
    """A row of any shape to a flat one, channels first: ``(C, H, W) -> (C * H * W,)``."""

    kind: ClassVar[str] = "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def tensors(self) -> dict[str, Shape]:
        return {}


@dataclass(frozen=True)
class Reshape:
    """A row to another shape of as many elements, channels first."""

    kind: ClassVar[str] = "reshape"
    shape: Shape

    def __post_init__(self) -> None:
        check_positive("reshape", shape=self.shape)

    def output_shape(self, shape: Shape) -> Shape:
        check(
            math.prod(shape) == math.prod(self.shape),
            f"reshape to {self.shape} does not fit rows of shape {shape}",
        )
        return self.shape

    def tensors(self) -> dict[str, Shape]:
        return {}
