"""Convolutions, one way and the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastvae.layers.checks import Shape, check, check_positive


@dataclass(frozen=True)
class Conv2d:
    """2-D cross-correlation, as in PyTorch: ``(C, H, W) -> (C', H', W')``; pairs are (height, width).

    ``padding`` is that of the top and left, and of the bottom and right as well unless ``padding_end`` is given.
    """

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
    padding_end: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _check_convolution(self)
        check(
            self.padding_end is None or min(self.padding_end) >= 0,
            f"conv2d {self.name!r}: padding_end must not be negative, got {self.padding_end}",
        )

    @property
    def paddings(self) -> tuple[int, int, int, int]:
        """Rows and columns of zeros around the image: top, left, bottom, right."""
        return (*self.padding, *(self.padding if self.padding_end is None else self.padding_end))

    def output_shape(self, shape: Shape) -> Shape:
        _check_channels(self, shape)
        size = tuple(
            (n + first + last - d * (k - 1) - 1) // s + 1
            for n, first, last, d, k, s in zip(
                shape[1:],
                self.paddings[:2],
                self.paddings[2:],
                self.dilation,
                self.kernel_size,
                self.stride,
                strict=True,
            )
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
