"""What image autoencoders have besides convolutions. All take rows (C, H, W) of any height and width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastvae.layers.checks import Shape, check, check_positive


@dataclass(frozen=True)
class GroupNorm:
    """Normalisation by the mean and variance of each of ``num_groups`` groups of channels, over all their pixels.

    (Wu & He 2018.) Scale and shift are per channel.
    """

    kind: ClassVar[str] = "group_norm"
    name: str
    num_channels: int
    num_groups: int
    eps: float = 1e-5

    def __post_init__(self) -> None:
        owner = f"group_norm {self.name!r}"
        check_positive(owner, num_channels=self.num_channels, num_groups=self.num_groups)
        check(
            self.num_channels % self.num_groups == 0,
            f"{owner}: {self.num_groups} groups do not divide {self.num_channels} channels",
        )
        check(0 <= self.eps < math.inf, f"{owner}: eps must be finite and not negative, got {self.eps}")

    def output_shape(self, shape: Shape) -> Shape:
        _check_image(self, self.num_channels, shape)
        return shape

    def tensors(self) -> dict[str, Shape]:
        return {f"{self.name}.{key}": (self.num_channels,) for key in ("weight", "bias")}


@dataclass(frozen=True)
class Attention:
    """Self-attention among the pixels of an image, ``heads`` of them side by side; nothing is added to its input.

    ``softmax(q k^T / sqrt(channels / heads)) v``, with ``q``, ``k``, ``v`` and the result each a linear map of
    channels.
    """

    kind: ClassVar[str] = "attention"
    name: str
    channels: int
    heads: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        owner = f"attention {self.name!r}"
        check_positive(owner, channels=self.channels, heads=self.heads)
        check(self.channels % self.heads == 0, f"{owner}: {self.heads} heads do not divide {self.channels} channels")

    def output_shape(self, shape: Shape) -> Shape:
        _check_image(self, self.channels, shape)
        return shape

    def tensors(self) -> dict[str, Shape]:
        needed: dict[str, Shape] = {}
        for role in ("to_q", "to_k", "to_v", "to_out"):
            needed[f"{self.name}.{role}.weight"] = (self.channels, self.channels)
            if self.bias:
                needed[f"{self.name}.{role}.bias"] = (self.channels,)
        return needed


@dataclass(frozen=True)
class Upsample:
    """Every pixel ``factor`` times in each direction (nearest neighbour): ``(C, H, W) -> (C, fH, fW)``."""

    kind: ClassVar[str] = "upsample"
    factor: int = 2

    def __post_init__(self) -> None:
        check_positive("upsample", factor=self.factor)

    def output_shape(self, shape: Shape) -> Shape:
        check(len(shape) == 3, f"upsample takes rows (channels, height, width), found {shape}")
        return (shape[0], shape[1] * self.factor, shape[2] * self.factor)

    def tensors(self) -> dict[str, Shape]:
        return {}


def _check_image(layer: GroupNorm | Attention, channels: int, shape: Shape) -> None:
    check(
        len(shape) == 3 and shape[0] == channels,
        f"{layer.kind} {layer.name!r} takes rows ({channels}, height, width), found {shape}",
    )
