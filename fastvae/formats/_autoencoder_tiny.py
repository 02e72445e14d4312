"""Tiny autoencoders (TAESD) as layers: plain convolutions and residual blocks, a deterministic encoder.

The decoder begins with 3 tanh(x / 3). A third is no number of 16 bits, so weights of 16 bits become float32, which
holds their values exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from fastvae.errors import WeightMismatchError
from fastvae.formats._autoencoder_kl import PIXELS, Function
from fastvae.formats._config import naming
from fastvae.formats._shapes import rounded_size
from fastvae.formats._weights import common_dtype, shape_of, widened
from fastvae.layers import Activation, Affine, Conv2d, GroupNorm, Layer, Residual, Stack, Upsample, leaves, stack_shape
from fastvae.model import Model
from fastvae.spec import FixedGaussian, ModelSpec, PointHead

__all__ = ["TinyArchitecture", "block", "build_tiny", "clamp", "conv", "point_model", "pool"]

# These models take images of any size, and their files name none.
SIZE = 256
RELU = Activation("relu")
POOL_GROUPS = 4

# Scale and shift of the affine layers. diffusers has images in [-1, 1], the networks in between have them in [0, 1].
_CONSTANTS = {
    "encoder.to_unit": (0.5, 0.5),
    "decoder.clamp.in": (1 / 3, 0.0),
    "decoder.clamp.out": (3.0, 0.0),
    "decoder.from_unit": (2.0, -1.0),
}


@dataclass(frozen=True)
class TinyArchitecture:
    """diffusers' AutoencoderTiny: for each stage of the encoder and the decoder its channels and number of blocks."""

    channels: int
    latent_channels: int
    encoder: tuple[tuple[int, int], ...]
    decoder: tuple[tuple[int, int], ...]
    factor: int
    function: Function


def build_tiny(a: TinyArchitecture, weights: Mapping[str, Tensor], *, source: Path, card: dict[str, str]) -> Model:
    """The model of ``weights`` named as diffusers does, for images in [-1, 1], not yet checked against its spec.

    Raises:
        WeightFormatError: the architecture does not fit together.
        WeightMismatchError: the weights are for images or latents of other channels.
    """
    for side, channels in (("encoder", a.channels), ("decoder", a.latent_channels)):
        found = shape_of(weights, f"{side}.layers.0.weight", 4, source)[1]
        if found != channels:
            raise WeightMismatchError(f"{source}: expected {side} weights for {channels} channels, found {found}")
    with naming(source):
        encoder = (Affine("encoder.to_unit", (a.channels,)), *_encoder(a))
        decoder = (*clamp(a.latent_channels), *_decoder(a), Affine("decoder.from_unit", (a.channels,)))
        model = point_model((a.channels, len(a.encoder) - 1), encoder, decoder, weights, card)
    return replace(model, spec=replace(model.spec, pixel_range=PIXELS))


def point_model(
    image: tuple[int, int], encoder: Stack, decoder: Stack, weights: Mapping[str, Tensor], card: dict[str, str]
) -> Model:
    """The model with a deterministic ``encoder``, whose last layer makes the latents; affine layers get their tensors.

    ``image`` is the images' number of channels, and how often the encoder halves their size; their pixels are in
    [0, 1].

    Raises:
        WeightFormatError: the stacks do not fit together.
    """
    weights = widened(weights)
    dtype = common_dtype(weights)
    channels, halvings = image
    size = rounded_size(SIZE, halvings)
    spec = ModelSpec(
        input_shape=(channels, size, size),
        latent_shape=stack_shape(encoder, (channels, size, size)),
        encoder=encoder[:-1],
        posterior=PointHead(encoder[-1:]),
        decoder=decoder,
        likelihood=FixedGaussian(1.0),
        dtype=dtype,
        pixel_range=(0.0, 1.0),
    )
    for layer in leaves((*encoder, *decoder)):
        if isinstance(layer, Affine):
            for role, value in zip(("scale", "shift"), _CONSTANTS[layer.name], strict=True):
                weights[f"{layer.name}.{role}"] = torch.full(layer.shape, value, dtype=getattr(torch, dtype))
    return Model(spec, weights, card)


def clamp(channels: int) -> Stack:
    """3 tanh(x / 3), which every decoder begins with."""
    return Affine("decoder.clamp.in", (channels,)), Activation("tanh"), Affine("decoder.clamp.out", (channels,))


def conv(name: str, fan_in: int, fan_out: int, *, stride: int = 1, bias: bool = True) -> Conv2d:
    """A 3x3 convolution; with stride 2 it halves the size."""
    return Conv2d(name, fan_in, fan_out, (3, 3), (stride, stride), (1, 1), bias=bias)


def block(name: str, fan_in: int, fan_out: int, act: Activation = RELU) -> Stack:
    """Three convolutions and what is beside them, added, then ReLU whatever ``act`` is."""
    body = (
        *(conv(f"{name}.conv.0", fan_in, fan_out), act),
        *(conv(f"{name}.conv.2", fan_out, fan_out), act),
        conv(f"{name}.conv.4", fan_out, fan_out),
    )
    skip = () if fan_in == fan_out else (_pointwise(f"{name}.skip", fan_in, fan_out),)
    return Residual(body, skip), RELU


def pool(name: str, channels: int) -> Residual:
    """What a block adds to its input where it looks at the whole image, by a group norm over all its pixels."""
    width = 4 * channels
    return Residual(
        (
            _pointwise(f"{name}.pool.0", channels, width),
            *(GroupNorm(f"{name}.pool.1", width, POOL_GROUPS), RELU),
            _pointwise(f"{name}.pool.3", width, channels),
        )
    )


def _encoder(a: TinyArchitecture) -> Stack:
    names = (f"encoder.layers.{n}" for n in count())
    layers: list[Layer] = []
    for i, (channels, blocks) in enumerate(a.encoder):
        first = i == 0
        layers.append(
            conv(next(names), a.channels if first else channels, channels, stride=1 if first else 2, bias=first)
        )
        layers += _blocks(names, channels, blocks, a)
    return (*layers, conv(next(names), a.encoder[-1][0], a.latent_channels))


def _decoder(a: TinyArchitecture) -> Stack:
    names = (f"decoder.layers.{n}" for n in count())
    layers: list[Layer] = [conv(next(names), a.latent_channels, a.decoder[0][0]), Activation(a.function)]
    next(names)  # the activation's
    for i, (channels, blocks) in enumerate(a.decoder):
        last = i == len(a.decoder) - 1
        layers += _blocks(names, channels, blocks, a)
        if not last:
            layers.append(Upsample(a.factor))
            next(names)  # its own
        layers.append(conv(next(names), channels, a.channels if last else channels, bias=last))
    return tuple(layers)


def _blocks(names: Iterator[str], channels: int, blocks: int, a: TinyArchitecture) -> list[Layer]:
    act = Activation(a.function)
    return [layer for _ in range(blocks) for layer in block(next(names), channels, channels, act)]


def _pointwise(name: str, fan_in: int, fan_out: int) -> Conv2d:
    return Conv2d(name, fan_in, fan_out, (1, 1), bias=False)
