"""The autoencoder of latent diffusion models in one file with no config: of its own, or among a whole model's weights.

A ``.safetensors``, ``.ckpt``, ``.pt``, ``.pth`` or ``.bin`` file whose tensors have the names of the original code,
plain or behind ``first_stage_model.`` or ``vae.``; others are left alone. The architecture is inferred from names and
shapes; what they do not tell is the same in all: SiLU, and group norms of 32 groups. Levels of the decoder count from
the image, so that it begins with the highest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count, takewhile
from pathlib import Path

from torch import Tensor

from fastvae.errors import UnsupportedError, WeightMismatchError
from fastvae.formats._autoencoder_kl import Architecture, Level, build_model, current_names
from fastvae.formats._heads import holds
from fastvae.formats._weights import WEIGHT_SUFFIXES, read_tensors, shape_of
from fastvae.model import Model

# No file says the size of its images; these models take any, and most were trained at this one.
SIZE = 256
PREFIXES = ("first_stage_model.", "vae.", "")
_MARKER = "encoder.down.0.block.0.conv1.weight"
_OURS = re.compile(r"(encoder|decoder|quant_conv|post_quant_conv)\.")
_ATTENTION_ROLES = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out"}
_LEVEL = re.compile(r"(encoder|decoder)\.(down|up)\.(\d{1,4})\.(.+)")
_WITHIN_LEVEL = (
    (re.compile(r"block\.(\d{1,4})\.nin_shortcut\."), r"resnets.\1.conv_shortcut."),
    (re.compile(r"block\.(\d{1,4})\."), r"resnets.\1."),
    (re.compile(r"attn\.(\d{1,4})\."), r"attentions.\1."),
    (re.compile(r"(down|up)sample\.conv\."), r"\1samplers.0.conv."),
)
_OUTSIDE = (
    (re.compile(r"\.mid\.block_1\."), ".mid_block.resnets.0."),
    (re.compile(r"\.mid\.block_2\."), ".mid_block.resnets.1."),
    (re.compile(r"\.mid\.attn_1\."), ".mid_block.attentions.0."),
    (re.compile(r"\.norm_out\."), ".conv_norm_out."),
)
_ATTENTION = re.compile(r"(.+\.attentions\.\d{1,4})\.(norm|q|k|v|proj_out)\.(weight|bias)")


def matches(path: Path) -> bool:
    """Whether ``path`` is a file of weights that has such an encoder's first tensors."""
    return path.suffix in WEIGHT_SUFFIXES and holds(path, _MARKER)


def read(path: Path) -> Model:
    """The autoencoder in the file at ``path``, not yet checked against its spec.

    Raises:
        InputError: there is no readable file.
        WeightFormatError: it is malformed, or what it holds does not fit together.
        WeightMismatchError: there is no such encoder or decoder in it, or not all of one.
        UnsafeFileError: it holds more than tensors.
        UnsupportedError: its latents are quantised.
    """
    tensors = read_tensors(path)
    prefix = next((prefix for prefix in PREFIXES if prefix + _MARKER in tensors), None)
    if prefix is None:
        behind = ", ".join(map(repr, PREFIXES[:-1]))
        raise WeightMismatchError(f"{path}: expected a tensor {_MARKER!r}, plain or behind {behind}; found none")
    weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if "quantize.embedding.weight" in weights:
        raise UnsupportedError(f"{path}: an autoencoder with quantised latents is not supported")
    ours = {name: tensor for name, tensor in weights.items() if _OURS.match(name)}
    renamed = current_names(_renamed(ours, path), path)
    return build_model(_architecture(renamed, path), renamed, source=path, card={})


def _renamed(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The ``weights`` under the names of diffusers."""
    levels = [int(match[3]) for match in map(_LEVEL.fullmatch, weights) if match and match[2] == "up"]
    highest = max(levels, default=0)
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        new = _new_name(name, highest)
        if new in renamed:
            raise WeightMismatchError(f"{path}: expected one tensor for {new!r}, found another besides {name!r:.200}")
        renamed[new] = tensor
    return renamed


def _new_name(name: str, highest: int) -> str:
    level = _LEVEL.fullmatch(name)
    if level:
        side, way, number, rest = level.groups()
        index = int(number) if way == "down" else highest - int(number)
        for pattern, replacement in _WITHIN_LEVEL:
            rest = pattern.sub(replacement, rest, count=1)
        name = f"{side}.{way}_blocks.{index}.{rest}"
    for pattern, replacement in _OUTSIDE:
        name = pattern.sub(replacement, name, count=1)
    attention = _ATTENTION.fullmatch(name)
    return f"{attention[1]}.{_ATTENTION_ROLES[attention[2]]}.{attention[3]}" if attention else name


def _architecture(weights: Mapping[str, Tensor], path: Path) -> Architecture:
    """What names and shapes of ``weights`` say."""

    def sizes(name: str) -> tuple[int, int]:
        """Output and input channels of a convolution."""
        found = shape_of(weights, f"{name}.weight", 4, path)
        return found[0], found[1]

    stem, channels = sizes("encoder.conv_in")
    z_channels = sizes("decoder.conv_in")[1]
    post = "post_quant_conv.weight" in weights
    return Architecture(
        channels=channels,
        latent_channels=sizes("post_quant_conv")[1] if post else z_channels,
        z_channels=z_channels,
        stem=stem,
        down=_levels("encoder.down_blocks", weights, path),
        up=_levels("decoder.up_blocks", weights, path),
        size=(SIZE, SIZE),
        encoder_attention="encoder.mid_block.attentions.0.to_q.weight" in weights,
        decoder_attention="decoder.mid_block.attentions.0.to_q.weight" in weights,
        quant_conv="quant_conv.weight" in weights,
        post_quant_conv=post,
    )


def _levels(name: str, weights: Mapping[str, Tensor], path: Path) -> tuple[Level, ...]:
    """As many levels, with as many blocks, as are there without a gap."""

    def level(i: int) -> Level:
        blocks = takewhile(lambda j: f"{name}.{i}.resnets.{j}.conv1.weight" in weights, count())
        channels = shape_of(weights, f"{name}.{i}.resnets.0.conv1.weight", 4, path)[0]
        return Level(channels, sum(1 for _ in blocks), f"{name}.{i}.attentions.0.to_q.weight" in weights)

    found = tuple(level(i) for i in takewhile(lambda i: f"{name}.{i}.resnets.0.conv1.weight" in weights, count()))
    if not found:
        raise WeightMismatchError(f"{path}: expected residual blocks for {name.replace('_', ' ')}, found none")
    return found
