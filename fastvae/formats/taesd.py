"""Tiny autoencoders as TAESD's author publishes them: NAME_encoder and NAME_decoder, ``.pth`` or ``.safetensors``.

Each file numbers the modules of one sequence. What has no weights shows as a gap: ReLU, the upsampling in front of a
convolution without bias, and the decoder's clamp at its beginning. In the encoder a convolution without bias halves the
size, and so does one with a ReLU after it. Images are in [0, 1]; those the decoder makes may lie a little outside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from fastvae.errors import InputError, UnsupportedError, WeightFormatError
from fastvae.formats._autoencoder_tiny import RELU, block, clamp, conv, point_model, pool
from fastvae.formats._config import naming
from fastvae.formats._files import files_in
from fastvae.formats._heads import holds
from fastvae.formats._weights import read_tensors, shape_of
from fastvae.layers import Conv2d, Layer, Stack, Upsample
from fastvae.model import Model

_FILE = re.compile(r"(.*_)(encoder|decoder)(\.safetensors|\.pth)")
_KEY = re.compile(r"\w+\.(\d{1,4})\.")
_MARKER = ".conv.0.weight"
SUFFIXES = (".safetensors", ".pth")


def matches(path: Path) -> bool:
    """Whether ``path`` is one of two such files, or a folder with two."""
    found = _pairs(path)
    return bool(found) and all(holds(file, _MARKER) for file in found[0])


def read(path: Path) -> Model:
    """The model of an encoder's and a decoder's file, not yet checked against its spec.

    Raises:
        InputError: one of the files is missing, or the folder has those of several models.
        WeightFormatError: the modules do not fit together.
        WeightMismatchError: a module has no weights of the shape that a convolution has.
        UnsafeFileError: a file holds more than tensors.
        UnsupportedError: an encoder that begins with something without weights, or a decoder that does not.
    """
    found = _pairs(path)
    if len(found) != 1:
        names = ", ".join(encoder.name for encoder, _ in found) or "none"
        raise InputError(
            f"{path}: expected two files NAME_encoder and NAME_decoder, both {' or '.join(SUFFIXES)}; found {names}"
            + ("; pass the path of one" if found else "")
        )
    sides = zip(("encoder", "decoder"), found[0], strict=True)
    weights: dict[str, Tensor] = {}
    stacks: dict[str, Stack] = {}
    for side, file in sides:
        tensors = {f"{side}.{key}": tensor for key, tensor in read_tensors(file).items()}
        weights |= tensors
        with naming(file):
            stacks[side] = _stack(side, tensors, file)
    channels = shape_of(weights, "encoder.0.weight", 4, found[0][0])[1]
    halvings = sum(isinstance(layer, Conv2d) and layer.stride == (2, 2) for layer in stacks["encoder"])
    with naming(path):
        return point_model((channels, halvings), stacks["encoder"], stacks["decoder"], weights, {})


def _pairs(path: Path) -> list[tuple[Path, Path]]:
    """The pairs of files in the folder, or with the file, ``path``; of two of one name the safetensors."""
    pairs: dict[str, tuple[Path, Path]] = {}
    for file in reversed(files_in(path)) if path.is_dir() else [path]:
        name = _FILE.fullmatch(file.name)
        if name:
            encoder, decoder = (file.with_name(f"{name[1]}{side}{name[3]}") for side in ("encoder", "decoder"))
            if encoder.is_file() and decoder.is_file():
                pairs.setdefault(name[1], (encoder, decoder))
    return [pairs[name] for name in sorted(pairs)]


def _stack(side: str, tensors: Mapping[str, Tensor], file: Path) -> Stack:
    """The modules of one file in turn, with those between them that have no weights."""
    modules = _modules(tensors)
    if modules[0] != (side == "decoder"):
        found = f"module {modules[0]} of its {side} as the first with weights"
        raise UnsupportedError(f"{file}: expected an encoder's first at 0 and a decoder's at 1, found {found}")
    layers: list[Layer] = []
    for before, number in pairwise([-1, *modules]):
        name, gap = f"{side}.{number}", number - before - 1
        is_block, bias = f"{name}.conv.0.weight" in tensors, f"{name}.bias" in tensors
        if gap > 1:
            raise WeightFormatError(f"expected at most one module without weights before module {number}, found {gap}")
        fan_out, fan_in, *_ = shape_of(tensors, f"{name}.conv.0.weight" if is_block else f"{name}.weight", 4, file)
        if gap and before < 0:
            layers += clamp(fan_in)
        elif gap:
            layers.append(Upsample(2) if side == "decoder" and not (is_block or bias) else RELU)
        if is_block:
            layers += [pool(name, fan_in)] if f"{name}.pool.0.weight" in tensors else []
            layers += block(name, fan_in, fan_out)
        else:
            before_relu = number != modules[-1] and number + 1 not in modules
            stride = 2 if side == "encoder" and (before_relu or not bias) else 1
            layers.append(conv(name, fan_in, fan_out, stride=stride, bias=bias))
    return tuple(layers)


def _modules(tensors: Mapping[str, Tensor]) -> list[int]:
    """The numbers of the modules that have weights."""
    numbers = set()
    for name in tensors:
        key = _KEY.match(name)
        if key is None:
            raise WeightFormatError(f"expected tensors named NUMBER.ROLE, found {name.partition('.')[2]!r:.200}")
        numbers.add(int(key[1]))
    return sorted(numbers)
