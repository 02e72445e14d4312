"""The autoencoder of latent diffusion models (Rombach et al. 2022) as layers, named as diffusers names its tensors.

Levels of residual blocks (group norm, activation, 3x3 convolution, twice), each level half the size of the one before;
in the middle two more blocks, with attention between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias

from torch import Tensor

from fastvae.errors import WeightFormatError
from fastvae.formats._config import naming
from fastvae.formats._shapes import rounded_size
from fastvae.formats._weights import common_dtype
from fastvae.layers import Activation, Attention, Conv2d, GroupNorm, Layer, Residual, Stack, Upsample
from fastvae.model import Model
from fastvae.spec import FixedGaussian, GaussianHead, ModelSpec

__all__ = ["PIXELS", "Architecture", "Function", "Level", "build_model", "current_names"]

Function: TypeAlias = Literal["silu", "gelu", "relu"]
EPS = 1e-6
LOGVAR_RANGE = -30.0, 20.0
# Black and white of the images they are trained on.
PIXELS = -1.0, 1.0

# The attention's tensors as they were called before, in diffusers and by others.
_OLD_ATTENTION = re.compile(r"(.+\.attentions\.\d{1,4})\.(query|key|value|proj_attn|to_out\.0)\.(weight|bias)")
_ATTENTION = re.compile(r".+\.attentions\.\d{1,4}\.to_(q|k|v|out)\.weight")
_ROLES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out", "to_out.0": "to_out"}


@dataclass(frozen=True)
class Level:
    """Residual blocks at one image size, each followed by attention or not."""

    channels: int
    blocks: int
    attention: bool = False


@dataclass(frozen=True)
class Architecture:
    """What distinguishes one of these models from another.

    ``down`` and ``up`` are the encoder's and the decoder's levels, each in the order a row meets them; ``stem`` the
    channels between the encoder's first convolution and its first level. ``size`` is that of the images, as (height,
    width); it is rounded up to what halves once for each level but one.
    """

    channels: int
    latent_channels: int
    stem: int
    down: tuple[Level, ...]
    up: tuple[Level, ...]
    size: tuple[int, int]
    z_channels: int
    groups: int = 32
    function: Function = "silu"
    encoder_attention: bool = True
    decoder_attention: bool = True
    quant_conv: bool = True
    post_quant_conv: bool = True


def build_model(architecture: Architecture, weights: dict[str, Tensor], *, source: Path, card: dict[str, str]) -> Model:
    """The model of ``weights`` that are named as :func:`current_names` leaves them, not yet checked against its spec.

    Raises:
        WeightFormatError: the architecture does not fit together.
    """
    halvings = len(architecture.down) - 1
    with naming(source):
        height, width = (rounded_size(size, halvings) for size in architecture.size)
        spec = ModelSpec(
            input_shape=(architecture.channels, height, width),
            latent_shape=(architecture.latent_channels, height >> halvings, width >> halvings),
            encoder=_encoder(architecture),
            posterior=GaussianHead(
                "chunked",
                joint=_parameters(architecture),
                logvar_min=LOGVAR_RANGE[0],
                logvar_max=LOGVAR_RANGE[1],
            ),
            decoder=_decoder(architecture),
            likelihood=FixedGaussian(1.0),
            dtype=common_dtype(weights),
            pixel_range=PIXELS,
        )
    return Model(spec, weights, card)


def current_names(weights: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The ``weights`` with attention's under the names our layers know, and its matrices without a 1x1 kernel's axes.

    Raises:
        WeightFormatError: a tensor is there under two names.
    """
    renamed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        old = _OLD_ATTENTION.fullmatch(name)
        new = f"{old[1]}.{_ROLES[old[2]]}.{old[3]}" if old else name
        if new in renamed:
            raise WeightFormatError(f"{source}: expected one tensor {new!r}, found it under another name as well")
        kernel = _ATTENTION.fullmatch(new) and weight.ndim == 4 and weight.shape[2:] == (1, 1)
        renamed[new] = weight[:, :, 0, 0] if kernel else weight
    return renamed


def _encoder(a: Architecture) -> Stack:
    layers: list[Layer] = [_conv("encoder.conv_in", a.channels, a.stem)]
    channels = a.stem
    for i, level in enumerate(a.down):
        layers += _level(f"encoder.down_blocks.{i}", channels, level, a)
        channels = level.channels
        if i < len(a.down) - 1:
            layers.append(_downsampling(f"encoder.down_blocks.{i}.downsamplers.0.conv", channels))
    return (*layers, *_middle("encoder", channels, a.encoder_attention, a), *_ending("encoder", channels, a))


def _parameters(a: Architecture) -> Stack:
    """What makes mean and log-variance of the encoder's features."""
    width = a.down[-1].channels
    last = _conv("encoder.conv_out", width, 2 * a.z_channels)
    return (last, _pointwise("quant_conv", 2 * a.z_channels, 2 * a.latent_channels)) if a.quant_conv else (last,)


def _decoder(a: Architecture) -> Stack:
    channels = a.up[0].channels
    layers: list[Layer] = [_pointwise("post_quant_conv", a.latent_channels, a.z_channels)] if a.post_quant_conv else []
    layers += [
        _conv("decoder.conv_in", a.z_channels, channels),
        *_middle("decoder", channels, a.decoder_attention, a),
    ]
    for i, level in enumerate(a.up):
        layers += _level(f"decoder.up_blocks.{i}", channels, level, a)
        channels = level.channels
        if i < len(a.up) - 1:
            layers += [Upsample(2), _conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", channels, channels)]
    return (*layers, *_ending("decoder", channels, a), _conv("decoder.conv_out", channels, a.channels))


def _level(name: str, channels: int, level: Level, a: Architecture) -> Iterable[Layer]:
    widths = [channels] + [level.channels] * level.blocks
    for j, (fan_in, fan_out) in enumerate(pairwise(widths)):
        yield _block(f"{name}.resnets.{j}", fan_in, fan_out, a)
        if level.attention:
            yield _attention(f"{name}.attentions.{j}", fan_out, a)


def _middle(side: str, channels: int, attention: bool, a: Architecture) -> Stack:
    name = f"{side}.mid_block"
    first, second = (_block(f"{name}.resnets.{j}", channels, channels, a) for j in range(2))
    return (first, _attention(f"{name}.attentions.0", channels, a), second) if attention else (first, second)


def _ending(side: str, channels: int, a: Architecture) -> Stack:
    """What follows the last block; its activation is SiLU whatever that of the blocks is."""
    return GroupNorm(f"{side}.conv_norm_out", channels, a.groups, EPS), Activation("silu")


def _block(name: str, fan_in: int, fan_out: int, a: Architecture) -> Residual:
    act = Activation(a.function)
    body = (
        *(GroupNorm(f"{name}.norm1", fan_in, a.groups, EPS), act, _conv(f"{name}.conv1", fan_in, fan_out)),
        *(GroupNorm(f"{name}.norm2", fan_out, a.groups, EPS), act, _conv(f"{name}.conv2", fan_out, fan_out)),
    )
    return Residual(body, () if fan_in == fan_out else (_pointwise(f"{name}.conv_shortcut", fan_in, fan_out),))


def _attention(name: str, channels: int, a: Architecture) -> Residual:
    return Residual((GroupNorm(f"{name}.group_norm", channels, a.groups, EPS), Attention(name, channels)))


def _conv(name: str, fan_in: int, fan_out: int) -> Conv2d:
    return Conv2d(name, fan_in, fan_out, (3, 3), padding=(1, 1))


def _pointwise(name: str, fan_in: int, fan_out: int) -> Conv2d:
    return Conv2d(name, fan_in, fan_out, (1, 1))


def _downsampling(name: str, channels: int) -> Conv2d:
    """Half the size: the image gets one row at the bottom and one column at the right."""
    return Conv2d(name, channels, channels, (3, 3), stride=(2, 2), padding_end=(1, 1))
