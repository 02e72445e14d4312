"""Image autoencoders as diffusers saves them: a folder with ``config.json`` and ``diffusion_pytorch_model.*``.

The weights are ``.safetensors`` or ``.bin``, whole or in shards with an index, plain or of a variant (``.fp16.``). The
folder may be that of a pipeline, whose autoencoder is in ``vae``; and one of several variants is picked by its path.
``AutoencoderKL`` and ``AutoencoderTiny`` are read. The numbers that scale latents for a diffusion model are the spec's,
not applied unless asked for; the card has them as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fastvae.errors import UnsafeFileError, UnsupportedError, WeightFormatError, WeightMismatchError
from fastvae.formats._autoencoder_kl import Architecture, Function, Level, build_model, current_names
from fastvae.formats._autoencoder_tiny import TinyArchitecture, build_tiny
from fastvae.formats._config import Config, naming, read_json_object
from fastvae.formats._files import files_in
from fastvae.formats._weights import read_tensors
from fastvae.model import Model
from fastvae.scaling import NUMBERS, LatentScaling

CONFIG = "config.json"
STEM = "diffusion_pytorch_model"

# In the order of preference; the variant, if any, comes in between.
_KINDS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
_FILE = re.compile(rf"{STEM}(?:\.\w+)?\.(?:safetensors|bin)|{STEM}\.(?:safetensors|bin)\.index(?:\.\w+)?\.json")
_FUNCTIONS: dict[str, Function] = {"silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu"}
_KL_SCALES = {"scaling_factor": 0.18215, "shift_factor": None, "latents_mean": None, "latents_std": None}
_TINY_SCALES = {"scaling_factor": 1.0, "shift_factor": 0.0, "latent_magnitude": 3, "latent_shift": 0.5}


def matches(path: Path) -> bool:
    """Whether ``path`` is such a folder, that of a pipeline with one, or one of its weights' files."""
    if path.is_dir():
        return any((folder / CONFIG).is_file() and _weight_files(folder) for folder in (path, path / "vae"))
    return _FILE.fullmatch(path.name) is not None and (path.parent / CONFIG).is_file()


def read(path: Path) -> Model:
    """The model of a diffusers folder, not yet checked against its spec.

    Raises:
        InputError: a file is missing.
        WeightFormatError: the config or the index is malformed, or describes no model that fits together.
        WeightMismatchError: the config asks for more than the weights could hold.
        UnsafeFileError: a ``.bin`` file holds more than tensors, or an index names a file elsewhere.
        UnsupportedError: another class, or a block, activation or option that fastvae has no layer for.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and not (path / CONFIG).is_file() and (path / "vae").is_dir():
        folder = path / "vae"
    config = Config(folder / CONFIG, read_json_object(folder / CONFIG))
    builder = _builder(config)
    return builder(config, _read_weights(path if path.is_file() else _preferred(folder)))


def configured(values: dict[str, object], weights: dict[str, Tensor], source: Path) -> Model:
    """The model of a config and its weights in memory; ``source`` is what messages call the config.

    Raises:
        WeightFormatError, WeightMismatchError, UnsupportedError: as :func:`read`.
    """
    config = Config(source, values)
    return _builder(config)(config, weights)


def _builder(config: Config) -> Callable[[Config, dict[str, Tensor]], Model]:
    name = config.text("_class_name", "")
    if name not in _CLASSES:
        raise UnsupportedError(f"{config.path}: _class_name {name!r} is not supported; accepted: {', '.join(_CLASSES)}")
    return _CLASSES[name]


def _autoencoder_kl(config: Config, weights: dict[str, Tensor]) -> Model:
    down, up = _kl_levels(config, weights)
    if not config.boolean("double_z", True):
        raise UnsupportedError(f"{config.path}: double_z false, an encoder without log-variances, is not supported")
    latent_channels = config.integer("latent_channels", 4)
    attention = config.boolean("mid_block_add_attention", True)
    architecture = Architecture(
        channels=_image_channels(config),
        latent_channels=latent_channels,
        z_channels=latent_channels,
        stem=down[0].channels,
        down=down,
        up=up,
        size=_size(config),
        groups=config.integer("norm_num_groups", 32),
        function=_function(config, "silu"),
        encoder_attention=attention,
        decoder_attention=attention,
        quant_conv=config.boolean("use_quant_conv", True),
        post_quant_conv=config.boolean("use_post_quant_conv", True),
    )
    card = config.numbers_as_text(_KL_SCALES)
    model = build_model(architecture, current_names(weights, config.path), source=config.path, card=card)
    return _scaled(model, config)


def _kl_levels(config: Config, weights: dict[str, Tensor]) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
    """The levels of the encoder and of the decoder."""
    widths = config.integers("block_out_channels", (64,))
    for field, only in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        types = config.texts(field, (only,))
        other = next((kind for kind in types if kind != only), None)
        if other is not None:
            raise UnsupportedError(f"{config.path}: {field} {other!r:.80} is not supported; accepted: {only!r}")
        _check_lengths(config, field, len(types), "block_out_channels", len(widths))
    blocks = config.integer("layers_per_block", 1)
    _check_blocks(config, "layers_per_block", blocks * len(widths), weights)
    down = tuple(Level(width, blocks) for width in widths)
    up = tuple(Level(width, blocks + 1) for width in reversed(widths))
    return down, up


def _autoencoder_tiny(config: Config, weights: dict[str, Tensor]) -> Model:
    stages = {}
    for side, blocks in (("encoder", (1, 3, 3, 3)), ("decoder", (3, 3, 3, 1))):
        widths = config.integers(f"{side}_block_out_channels", (64, 64, 64, 64))
        counts = config.integers(f"num_{side}_blocks", blocks)
        _check_lengths(config, f"num_{side}_blocks", len(counts), f"{side}_block_out_channels", len(widths))
        _check_blocks(config, f"num_{side}_blocks", sum(counts), weights)
        stages[side] = tuple(zip(widths, counts, strict=True))
    upsampling = config.text("upsample_fn", "nearest")
    if upsampling != "nearest":
        raise UnsupportedError(f"{config.path}: upsample_fn {upsampling!r:.80} is not supported; accepted: 'nearest'")
    architecture = TinyArchitecture(
        channels=_image_channels(config),
        latent_channels=config.integer("latent_channels", 4),
        encoder=stages["encoder"],
        decoder=stages["decoder"],
        factor=config.integer("upsampling_scaling_factor", 2),
        function=_function(config, "relu"),
    )
    model = build_tiny(architecture, weights, source=config.path, card=config.numbers_as_text(_TINY_SCALES))
    return _scaled(model, config)


def _scaled(model: Model, config: Config) -> Model:
    """The model with the numbers of its card by which pipelines scale latents, where they belong together.

    ``latent_magnitude`` and ``latent_shift`` do not: they squeeze latents into pixels, for a file to hold them.
    """
    numbers: dict[str, Any] = {name: json.loads(model.card[name]) for name in NUMBERS if name in model.card}
    means, deviations, shift = numbers.get("latents_mean"), numbers.get("latents_std"), numbers.get("shift_factor")
    if not isinstance(numbers.get("scaling_factor"), int | float) or isinstance(shift, list):
        return model
    if (means is None) != (deviations is None) or (means is not None and shift):
        return model  # no pipeline has a meaning for one without the other, or for a shift besides
    with naming(config.path):
        scaling = LatentScaling(
            float(numbers["scaling_factor"]), float(shift or 0.0), *(_floats(v) for v in (means, deviations))
        )
        return replace(model, spec=replace(model.spec, latent_scaling=scaling))


def _floats(values: Any) -> tuple[float, ...]:
    """A list of numbers, one number, or none."""
    if values is None:
        return ()
    return tuple(float(value) for value in (values if isinstance(values, list) else [values]))


_CLASSES = {"AutoencoderKL": _autoencoder_kl, "AutoencoderTiny": _autoencoder_tiny}


def _image_channels(config: Config) -> int:
    channels, out_channels = config.integer("in_channels", 3), config.integer("out_channels", 3)
    if channels != out_channels:
        raise UnsupportedError(
            f"{config.path}: out_channels {out_channels} other than in_channels {channels} is not supported"
        )
    return channels


def _size(config: Config) -> tuple[int, int]:
    """``sample_size``, one number or two, as (height, width)."""
    if not isinstance(config.values.get("sample_size"), list):
        size = config.integer("sample_size", 32)
        return size, size
    sizes = config.integers("sample_size", ())
    if len(sizes) != 2:
        raise WeightFormatError(f"{config.path}: sample_size: expected one number or two, found {len(sizes)}")
    return sizes[0], sizes[1]


def _function(config: Config, default: str) -> Function:
    name = config.text("act_fn", default)
    if name.lower() not in _FUNCTIONS:
        accepted = ", ".join(map(repr, _FUNCTIONS))
        raise UnsupportedError(f"{config.path}: act_fn {name!r:.80} is not supported; accepted: {accepted}")
    return _FUNCTIONS[name.lower()]


def _check_lengths(config: Config, field: str, length: int, other: str, expected: int) -> None:
    if length != expected:
        raise WeightFormatError(f"{config.path}: {field}: expected {expected} items, as {other} has, found {length}")


def _check_blocks(config: Config, field: str, blocks: int, weights: dict[str, Tensor]) -> None:
    """Refuse more blocks than there are tensors, before a layer is made for each."""
    if blocks > len(weights):
        raise WeightMismatchError(
            f"{config.path}: {field} asks for {blocks} residual blocks, but the weights are {len(weights)} tensors"
        )


def _weight_files(folder: Path) -> list[Path]:
    """The weights' files and indices in ``folder``, none of them a shard."""
    return [file for file in files_in(folder) if _FILE.fullmatch(file.name)]


def _preferred(folder: Path) -> Path:
    """The file to read: the plain one where there is one, safetensors before pickles, whole files before shards."""
    files = _weight_files(folder)
    plain = [folder / f"{STEM}{kind}" for kind in _KINDS if folder / f"{STEM}{kind}" in files]
    safe = [file for file in files if ".safetensors" in file.name]
    choice = plain[:1] or safe or files
    if len(choice) != 1:
        names = ", ".join(file.name for file in choice) or "none"
        raise WeightFormatError(
            f"{folder}: expected weights as {STEM}.safetensors, .bin or an index of shards, or of one variant; found "
            f"{names}" + ("; pass the path of one" if choice else "")
        )
    return choice[0]


def _read_weights(path: Path) -> dict[str, Tensor]:
    return _read_shards(path) if path.suffix == ".json" else read_tensors(path)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all shards that ``index`` names, each exactly where it says."""
    table = read_json_object(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise WeightFormatError(f"{index}: expected an object 'weight_map' of tensors' names to files' names")
    weights: dict[str, Tensor] = {}
    for name in sorted(set(table.values())):
        weights |= _read_shard(index, name, {key for key, file in table.items() if file == name})
    return weights


def _read_shard(index: Path, name: str, keys: set[str]) -> dict[str, Tensor]:
    suffix = ".safetensors" if ".safetensors" in index.name else ".bin"
    if name != Path(name).name or "\\" in name or "\0" in name or not name.endswith(suffix):
        raise UnsafeFileError(f"{index}: expected shards beside it that end in {suffix}, found {name!r:.200}")
    file = index.parent / name
    if not file.exists():
        raise WeightFormatError(f"{index}: expected the shard {name!r:.200} beside it, found none")
    tensors = read_tensors(file)
    if tensors.keys() != keys:
        first = min(tensors.keys() ^ keys)
        where = "is not there" if first in keys else "is not said to be there"
        raise WeightFormatError(f"{file}: expected the tensors that {index.name} names, but {first!r:.200} {where}")
    return tensors
