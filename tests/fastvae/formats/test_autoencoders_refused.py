"""Image autoencoders that are malformed, hostile or of another kind: typed errors, and nothing a number asks for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastvae.errors import (
    FastVAEError,
    InputError,
    UnsafeFileError,
    UnsupportedError,
    WeightFormatError,
    WeightMismatchError,
)
from fastvae.formats import FORMATS, detect, read_checkpoint
from tests.fastvae.formats.crafted import bounded
from tests.fastvae.formats.made_autoencoders import (
    autoencoder_tiny,
    raw_networks,
    saved_kl,
    saved_raw,
    small_kl,
    to_ldm,
    with_config,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


def assert_refused(path: Path, error: type[FastVAEError], match: str, **settings: Any) -> None:
    with bounded(megabytes=20), pytest.raises(error, match=match) as caught:
        read_checkpoint(path, **settings)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": ' * 5000,
        b'{"a":' + b"9" * 5000 + b"}",
        b" " * 5_000_000,
    ],
    ids=lambda content: f"{content[:8]!r}x{len(content)}",
)
def test_configs_that_are_no_json_objects(content: bytes, tmp_path: Path) -> None:
    (saved_kl(tmp_path) / "config.json").write_bytes(content)
    assert_refused(tmp_path, WeightFormatError, r"config\.json: expected (a )?JSON")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"block_out_channels": "wide"}, WeightFormatError, "block_out_channels: expected a list .* found 'wide'"),
        ({"block_out_channels": []}, WeightFormatError, "block_out_channels: expected a list with at least one item"),
        (
            {"block_out_channels": [32, "64"]},
            WeightFormatError,
            "block_out_channels: expected an integer .* found '64'",
        ),
        ({"block_out_channels": [32, -64]}, WeightFormatError, "block_out_channels: expected an integer from 1"),
        (
            {"block_out_channels": [32, 64.0]},
            WeightFormatError,
            "block_out_channels: expected an integer .* found 64.0",
        ),
        (
            {"block_out_channels": [[[]], 1]},
            WeightFormatError,
            "block_out_channels: expected an integer .* found a list",
        ),
        ({"block_out_channels": [32, 10**400]}, WeightFormatError, "block_out_channels: expected an integer from 1 to"),
        ({"block_out_channels": [32, 2**30]}, WeightMismatchError, "more than max_memory"),
        ({"block_out_channels": [32]}, WeightFormatError, "down_block_types: expected 1 items, as block_out_channels"),
        ({"block_out_channels": [32, 48]}, WeightFormatError, "32 groups do not divide 48 channels"),
        ({"block_out_channels": [32, 32]}, WeightMismatchError, "unexpected: .*conv_shortcut"),
        ({"layers_per_block": 10**9}, WeightMismatchError, "layers_per_block asks for 2000000000 residual blocks"),
        ({"layers_per_block": True}, WeightFormatError, "layers_per_block: expected an integer from 1"),
        ({"layers_per_block": 0}, WeightFormatError, "layers_per_block: expected an integer from 1"),
        ({"layers_per_block": 2}, WeightMismatchError, r"missing: '\w+\.down_blocks\.0\.resnets\.1|missing: "),
        ({"latent_channels": 5}, WeightMismatchError, "has shape"),
        ({"latent_channels": 2**31 - 1}, WeightMismatchError, "more than max_memory"),
        ({"norm_num_groups": 2**31}, WeightFormatError, "norm_num_groups: expected an integer"),
        ({"norm_num_groups": {}}, WeightFormatError, "norm_num_groups: expected an integer .* found a dict"),
        ({"sample_size": 2**31 - 1}, WeightMismatchError, "more than max_memory"),
        ({"sample_size": [8, 8, 8]}, WeightFormatError, "sample_size: expected one number or two, found 3"),
        ({"sample_size": "big"}, WeightFormatError, "sample_size: expected an integer"),
        ({"use_quant_conv": "no"}, WeightFormatError, "use_quant_conv: expected true or false, found 'no'"),
        ({"use_quant_conv": False}, WeightMismatchError, r"unexpected: 'quant_conv\.bias'"),
        ({"mid_block_add_attention": False}, WeightMismatchError, "unexpected: .*mid_block.attentions"),
        ({"double_z": False}, UnsupportedError, "double_z false"),
        ({"act_fn": "mish"}, UnsupportedError, "act_fn 'mish' is not supported; accepted: 'silu'"),
        ({"act_fn": 3}, WeightFormatError, "act_fn: expected text, found 3"),
        ({"in_channels": 4}, UnsupportedError, "out_channels 3 other than in_channels 4"),
        ({"in_channels": 1, "out_channels": 1}, WeightMismatchError, "conv_in.weight' has shape"),
        ({"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}, UnsupportedError, "'AttnDownEnc"),
        ({"up_block_types": ["X", "X"]}, UnsupportedError, "up_block_types 'X' is not supported; accepted: 'UpDec"),
        ({"up_block_types": ["UpDecoderBlock2D", 4]}, WeightFormatError, "up_block_types: expected a list of texts"),
        ({"scaling_factor": "big"}, WeightFormatError, "scaling_factor: expected a finite number"),
        ({"latents_mean": [1.0, float("nan")]}, WeightFormatError, "latents_mean: expected a finite number"),
        ({"_class_name": "AutoencoderDC"}, UnsupportedError, "_class_name 'AutoencoderDC' is not supported; accepted"),
        ({"_class_name": 4}, WeightFormatError, "_class_name: expected text"),
        ({"_class_name": None}, UnsupportedError, "_class_name '' is not supported"),
    ],
    ids=str,
)
def test_configs_that_are_wrong(
    changes: dict[str, Any], error: type[FastVAEError], message: str, tmp_path: Path
) -> None:
    assert_refused(saved_kl(tmp_path, **changes), error, message)


def test_more_levels_than_any_has(tmp_path: Path) -> None:
    saved_kl(tmp_path)
    save_file({f"w{n}": torch.zeros(1) for n in range(12_000)}, tmp_path / WEIGHTS)
    types = {"down_block_types": ["DownEncoderBlock2D"] * 6000, "up_block_types": ["UpDecoderBlock2D"] * 6000}
    with_config(tmp_path, block_out_channels=[32] * 6000, **types)
    with pytest.raises(WeightFormatError, match=r"config\.json: expected an encoder to halve images at most 15 times"):
        read_checkpoint(tmp_path)


def test_weights_that_are_not_there_or_not_all(tmp_path: Path) -> None:
    file = saved_kl(tmp_path) / WEIGHTS
    weights = load_file(file)
    save_file({name: weight for name, weight in weights.items() if name != "decoder.conv_in.bias"}, file)
    assert_refused(tmp_path, WeightMismatchError, r"missing: 'decoder\.conv_in\.bias'; unexpected: none")
    query, new = "encoder.mid_block.attentions.0.query.bias", "encoder.mid_block.attentions.0.to_q.bias"
    save_file({**weights, query: weights[new].clone()}, file)
    assert_refused(tmp_path, WeightFormatError, "expected one tensor 'encoder.mid_block.attentions.0.to_q.bias'")
    file.write_bytes(b"junk")
    with pytest.raises(WeightFormatError, match=WEIGHTS):
        read_checkpoint(tmp_path)
    file.unlink()
    assert_refused(tmp_path, InputError, "not recognised; expected .*diffusers")
    assert_refused(tmp_path, WeightFormatError, "found none", format="diffusers")
    for variant in ("fp16", "ema"):
        save_file(weights, tmp_path / f"diffusion_pytorch_model.{variant}.safetensors")
    assert_refused(tmp_path, WeightFormatError, r"model\.ema\.safetensors, .*model\.fp16\.safetensors; pass the path")
    (tmp_path / "config.json").unlink()
    assert_refused(tmp_path, InputError, r"config\.json", format="diffusers")


def test_bin_files_are_read_safely(tmp_path: Path) -> None:
    (saved_kl(tmp_path) / WEIGHTS).unlink()
    torch.save({"a": torch.zeros(1), "b": os.system}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match=r"diffusion_pytorch_model\.bin: .* asks for posix\.system"):
        read_checkpoint(tmp_path)


def sharded(folder: Path, **changes: Any) -> Path:
    """A folder whose index is changed."""
    small_kl().save_pretrained(folder, max_shard_size="200KB")
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({**index, **changes}))
    return folder


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("../x.safetensors", UnsafeFileError, r"expected shards beside it .* found '\.\./x\.safetensors'"),
        ("/etc/x.safetensors", UnsafeFileError, "expected shards beside it"),
        ("sub/x.safetensors", UnsafeFileError, "expected shards beside it"),
        ("..\\\\x.safetensors", UnsafeFileError, "expected shards beside it"),
        ("x\0.safetensors", UnsafeFileError, "expected shards beside it"),
        ("", UnsafeFileError, "expected shards beside it"),
        ("x.bin", UnsafeFileError, r"expected shards beside it that end in \.safetensors"),
        ("absent.safetensors", WeightFormatError, "expected the shard 'absent.safetensors' beside it, found none"),
        ("folder.safetensors", WeightFormatError, "expected a regular file, found a directory"),
    ],
)
def test_indices_that_name_other_files(name: str, error: type[FastVAEError], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    sharded(folder, weight_map={"encoder.conv_in.weight": name})
    save_file({"encoder.conv_in.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    (folder / "folder.safetensors").mkdir()
    assert_refused(folder, error, message)


@pytest.mark.parametrize("table", [None, [], {}, {"a": 1}, {"a": ["x.safetensors"]}, "x"])
def test_indices_without_a_map(table: Any, tmp_path: Path) -> None:
    assert_refused(
        sharded(tmp_path, weight_map=table), WeightFormatError, r"index\.json: expected an object 'weight_map'"
    )


def test_shards_that_hold_other_tensors(tmp_path: Path) -> None:
    sharded(tmp_path)
    shard = min(tmp_path.glob("*00001*"))
    weights = load_file(shard)
    first = min(weights)
    save_file({name: weight for name, weight in weights.items() if name != first}, shard)
    with pytest.raises(WeightFormatError, match=f"{first!r} is not there"):
        read_checkpoint(tmp_path)
    save_file({**weights, "a.second": torch.zeros(1)}, shard)
    with pytest.raises(WeightFormatError, match=r"'a\.second' is not said to be there"):
        read_checkpoint(tmp_path)


TINY = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
BLOCKS = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_encoder_blocks": [1, 10**9]}, WeightMismatchError, "num_encoder_blocks asks for 1000000001 residual"),
        ({"num_decoder_blocks": [1]}, WeightFormatError, "num_decoder_blocks: expected 2 items"),
        ({"num_decoder_blocks": [1, 2]}, WeightMismatchError, "missing: "),
        ({"upsample_fn": "bilinear"}, UnsupportedError, "upsample_fn 'bilinear' is not supported; accepted: 'nearest'"),
        ({"upsampling_scaling_factor": 3}, WeightFormatError, "the decoder makes shape"),
        ({"upsampling_scaling_factor": 2**31 - 1}, WeightFormatError, "the decoder makes shape"),
        ({"latent_channels": 2**31 - 1}, WeightMismatchError, "decoder weights for 2147483647 channels, found 4"),
        ({"in_channels": 2**31 - 1, "out_channels": 2**31 - 1}, WeightMismatchError, "encoder weights for 2147483647"),
        ({"act_fn": "mish"}, UnsupportedError, "act_fn 'mish'"),
        ({"encoder_block_out_channels": [4, 8]}, WeightFormatError, r"takes rows \(8, height, width\)"),
    ],
    ids=str,
)
def test_tiny_configs_that_are_wrong(
    changes: dict[str, Any], error: type[FastVAEError], message: str, tmp_path: Path
) -> None:
    autoencoder_tiny(**TINY, **BLOCKS).save_pretrained(tmp_path)
    assert_refused(with_config(tmp_path, **changes), error, message)


def ldm_with(path: Path, **changes: Tensor | None) -> Path:
    """An LDM file with some tensors replaced, or taken away where None; ``__`` stands for a dot."""
    named = {name.replace("__", "."): weight for name, weight in changes.items()}
    weights = {**to_ldm(small_kl().state_dict()), **named}
    save_file({name: weight for name, weight in weights.items() if weight is not None}, path)
    return path


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"quantize__embedding__weight": torch.zeros(8, 4)}, UnsupportedError, "quantised latents"),
        (
            {"decoder__conv_in__weight": None},
            WeightMismatchError,
            "expected a tensor 'decoder.conv_in.weight', found none",
        ),
        ({"encoder__conv_in__weight": torch.zeros(3)}, WeightMismatchError, "expected 4 dimensions"),
        ({"encoder__conv_in__weight": torch.zeros(32, 0, 3, 3)}, WeightMismatchError, "none empty"),
        ({"encoder__norm_out__bias": None}, WeightMismatchError, r"missing: 'encoder\.conv_norm_out\.bias'"),
        ({"encoder__down__0__block__5__conv1__weight": torch.zeros(1)}, WeightMismatchError, "unexpected: .*resnets.5"),
        ({"encoder__down_blocks__0__resnets__0__conv1__weight": torch.zeros(1)}, WeightMismatchError, "found another"),
        (
            {"encoder__down__1__block__0__conv1__weight": torch.zeros(48, 32, 3, 3)},
            WeightFormatError,
            "32 groups do not",
        ),
        (
            {"decoder__up__9999__block__0__conv1__weight": torch.zeros(1, 1, 1, 1)},
            WeightFormatError,
            "groups do not div",
        ),
        ({"encoder__down__0__downsample__conv__weight": None}, WeightMismatchError, "missing: .*downsamplers.0.conv.w"),
        ({"decoder__conv_out__weight": torch.zeros(2, 32, 3, 3)}, WeightMismatchError, "has shape"),
    ],
    ids=str,
)
def test_ldm_files_that_are_wrong(
    changes: dict[str, Any], error: type[FastVAEError], message: str, tmp_path: Path
) -> None:
    path = ldm_with(tmp_path / "model.safetensors", **changes)
    assert detect(path) == "ldm"
    assert_refused(path, error, message)


def test_an_ldm_file_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"unet.encoder.down.0.block.0.conv1.weight": torch.zeros(1)}, path)
    assert_refused(
        path, WeightMismatchError, "expected a tensor 'encoder.down.0.block.0.conv1.weight', plain or behind"
    )
    torch.save({"encoder.down.0.block.0.conv1.weight": torch.zeros(1), "run": os.system}, tmp_path / "model.ckpt")
    assert_refused(tmp_path / "model.ckpt", UnsafeFileError, "asks for posix.system")


def raw_with(folder: Path, side: str, **changes: Tensor | None) -> Path:
    """A pair of files, one with tensors replaced or taken away; names begin with ``_``, and ``__`` stands for a dot."""
    networks = raw_networks()
    saved_raw(folder, networks)
    state: dict[str, Tensor] = dict(networks[side == "decoder"].state_dict())
    for name, weight in changes.items():
        key = name.removeprefix("_").replace("__", ".")
        state = (
            {**state, key: weight} if weight is not None else {k: v for k, v in state.items() if not k.startswith(key)}
        )
    torch.save(state, folder / f"tiny_{side}.pth")
    return folder


@pytest.mark.parametrize(
    ("side", "changes", "error", "message"),
    [
        ("encoder", {"_0__": None}, UnsupportedError, "found module 1 of its encoder as the first with weights"),
        ("decoder", {"_0__weight": torch.zeros(3, 5, 3, 3)}, UnsupportedError, "found module 0 of its decoder"),
        ("decoder", {"_3__": None, "_5__": None}, WeightFormatError, "before module 6, found 4"),
        ("encoder", {"_3__conv__4__bias": None}, WeightMismatchError, r"missing: 'encoder\.3\.conv\.4\.bias'"),
        (
            "encoder",
            {"_3__norm__weight": torch.zeros(8)},
            WeightMismatchError,
            r"unexpected: 'encoder\.3\.norm\.weight'",
        ),
        (
            "encoder",
            {"_2__weight": torch.zeros(6)},
            WeightMismatchError,
            r"'encoder\.2\.weight': expected 4 dimensions",
        ),
        ("encoder", {"_2__weight": torch.zeros(9, 9, 3, 3)}, WeightFormatError, "takes rows"),
        ("encoder", {"_99999__weight": torch.zeros(1)}, WeightFormatError, "expected tensors named NUMBER.ROLE"),
        ("encoder", {"_9999__weight": torch.zeros(1)}, WeightFormatError, "at most one module without weights"),
        ("encoder", {"scale": torch.zeros(1)}, WeightFormatError, "expected tensors named NUMBER.ROLE, found 'scale'"),
        ("decoder", {"_5__weight": torch.zeros(7, 8, 1, 1)}, WeightMismatchError, "has shape"),
    ],
    ids=str,
)
def test_raw_files_that_are_wrong(
    side: str, changes: dict[str, Any], error: type[FastVAEError], message: str, tmp_path: Path
) -> None:
    assert_refused(raw_with(tmp_path, side, **changes), error, message)


@pytest.mark.parametrize("format", FORMATS)
def test_any_format_refuses_any_path(format: str, tmp_path: Path) -> None:
    """Whatever is said to be of a format it is not ends in an error of ours."""
    os.mkfifo(tmp_path / "fifo_encoder.pth")
    os.mkfifo(tmp_path / "fifo_decoder.pth")
    os.mkfifo(tmp_path / "fifo.ckpt")
    (tmp_path / "empty.safetensors").touch()
    for path in (tmp_path, tmp_path / "fifo_encoder.pth", tmp_path / "fifo.ckpt", tmp_path / "empty.safetensors"):
        with pytest.raises(FastVAEError):
            read_checkpoint(path)
        with pytest.raises(FastVAEError):
            read_checkpoint(path, format=format)
