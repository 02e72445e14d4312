"""The layers a model is made of, as frozen dataclasses.

A layer knows the shape it makes of a row (channels first, no batch axis) and the tensors it needs, each
named ``<layer name>.<role>`` as PyTorch's state dicts do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from fastvae.errors import WeightFormatError

Shape: TypeAlias = tuple[int, ...]


def check(condition: bool, message: str) -> None:
    """Raise WeightFormatError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise WeightFormatError(message)


def check_positive(owner: str, **sizes: int | Shape) -> None:
    """Raise WeightFormatError unless every size is positive."""
    for key, value in sizes.items():
        values = value if isinstance(value, tuple) else (value,)
        check(all(v > 0 for v in values), f"{owner}: {key} must be positive, got {value}")


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
class Conv2d:
    """2-D cross-correlation, as in PyTorch: ``(C, H, W) -> (C', H', W')``; pairs are (height, width)."""

    kind: ClassVar[str] = "conv2d"
    name: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        _check_convolution(self)

    def output_shape(self, shape: Shape) -> Shape:
        _check_channels(self, shape)
        size = tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(shape[1:], self.padding, self.dilation, self.kernel_size, self.stride, strict=True)
        )
        check(min(size) > 0, f"conv2d {self.name!r} leaves nothing of an input of shape {shape}")
        return (self.out_channels, *size)

    def tensors(self) -> dict[str, Shape]:
        weight = {f"{self.name}.weight": (self.out_channels, self.in_channels // self.groups, *self.kernel_size)}
        return weight | ({f"{self.name}.bias": (self.out_channels,)} if self.bias else {})


@dataclass(frozen=True)
class ConvTranspose2d:
    """2-D transposed convolution, as in PyTorch: ``(C, H, W) -> (C', H', W')``; pairs are (height, width)."""

    kind: ClassVar[str] = "conv_transpose2d"
    name: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        _check_convolution(self)
        for o, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True):
            check(
                0 <= o < max(s, d),
                f"conv_transpose2d {self.name!r}: output_padding must be smaller than stride or dilation",
            )

    def output_shape(self, shape: Shape) -> Shape:
        _check_channels(self, shape)
        size = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + o + 1
            for n, s, p, d, k, o in zip(
                shape[1:],
                self.stride,
                self.padding,
                self.dilation,
                self.kernel_size,
                self.output_padding,
                strict=True,
            )
        )
        check(min(size) > 0, f"conv_transpose2d {self.name!r} leaves nothing of an input of shape {shape}")
        return (self.out_channels, *size)

    def tensors(self) -> dict[str, Shape]:
        weight = {f"{self.name}.weight": (self.in_channels, self.out_channels // self.groups, *self.kernel_size)}
        return weight | ({f"{self.name}.bias": (self.out_channels,)} if self.bias else {})


def _check_convolution(layer: Conv2d | ConvTranspose2d) -> None:
    owner = f"{layer.kind} {layer.name!r}"
    check_positive(
        owner,
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        groups=layer.groups,
        kernel_size=layer.kernel_size,
        stride=layer.stride,
        dilation=layer.dilation,
    )
    check(min(layer.padding) >= 0, f"{owner}: padding must not be negative, got {layer.padding}")
    check(
        layer.in_channels % layer.groups == 0 and layer.out_channels % layer.groups == 0,
        f"{owner}: groups {layer.groups} must divide {layer.in_channels} and {layer.out_channels} channels",
    )


def _check_channels(layer: Conv2d | ConvTranspose2d, shape: Shape) -> None:
    check(
        len(shape) == 3 and shape[0] == layer.in_channels,
        f"{layer.kind} {layer.name!r} takes rows ({layer.in_channels}, height, width), found {shape}",
    )


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


# Far beyond any model's, and far below Python's recursion limit: specs come out of files.
MAX_RESIDUAL_DEPTH = 16


@dataclass(frozen=True)
class Residual:
    """``y = body(x) + shortcut(x)``, both of one shape; an empty ``shortcut`` is the identity.

    Residuals may hold residuals, at most MAX_RESIDUAL_DEPTH deep.
    """

    kind: ClassVar[str] = "residual"
    body: Stack
    shortcut: Stack = ()

    def __post_init__(self) -> None:
        check(len(self.body) > 0, "residual: body must hold at least one layer")
        check(
            self.depth <= MAX_RESIDUAL_DEPTH,
            f"residual: nested {self.depth} deep, at most {MAX_RESIDUAL_DEPTH} is supported",
        )

    @property
    def depth(self) -> int:
        """1, or one more than that of the deepest residual inside."""
        nested = (layer.depth for layer in (*self.body, *self.shortcut) if isinstance(layer, Residual))
        return 1 + max(nested, default=0)

    def output_shape(self, shape: Shape) -> Shape:
        body, shortcut = stack_shape(self.body, shape), stack_shape(self.shortcut, shape)
        check(body == shortcut, f"residual: body makes shape {body} but shortcut {shortcut}")
        return body

    def tensors(self) -> dict[str, Shape]:
        return stack_tensors((*self.body, *self.shortcut))


Layer: TypeAlias = Linear | Conv2d | ConvTranspose2d | BatchNorm | Affine | Activation | Flatten | Reshape | Residual
Stack: TypeAlias = tuple[Layer, ...]


def stack_tensors(stack: Stack) -> dict[str, Shape]:
    """Name and shape of every tensor of ``stack``; WeightFormatError where one name has two shapes."""
    needed: dict[str, Shape] = {}
    for layer in stack:
        for name, shape in layer.tensors().items():
            check(
                needed.setdefault(name, shape) == shape,
                f"tensor {name!r} is used as {needed[name]} and as {shape}",
            )
    return needed


def leaves(stack: Stack) -> Iterator[Layer]:
    """Every layer of ``stack`` that is no residual: those inside of residuals stand in for them, body first."""
    for layer in stack:
        if isinstance(layer, Residual):
            yield from leaves((*layer.body, *layer.shortcut))
        else:
            yield layer


def stack_shape(stack: Stack, shape: Shape) -> Shape:
    """The shape a row of ``shape`` has after ``stack``; WeightFormatError where a layer does not fit."""
    for layer in stack:
        shape = layer.output_shape(shape)
    return shape
