"""An AutoencoderKL computes what diffusers does with the same weights, however they were saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fastvae
from fastvae.formats import detect, read_checkpoint
from fastvae.layers import Attention, Conv2d, leaves
from tests.fastvae.formats.made_autoencoders import (
    BUDGET,
    autoencoder_kl,
    distance,
    images,
    loaded,
    old_attention,
    saved_kl,
    small_kl,
    to_ldm,
    with_config,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "two-levels": {"block_out_channels": (6, 12), "norm_num_groups": 3, "layers_per_block": 2},
    "one-level": {"block_out_channels": (8,), "norm_num_groups": 2},
    "odd-channels": {"block_out_channels": (5, 15, 10), "norm_num_groups": 5, "layers_per_block": 3},
    "one-group": {"block_out_channels": (7, 9), "norm_num_groups": 1},
    "no-attention": {"block_out_channels": (4, 8), "norm_num_groups": 4, "mid_block_add_attention": False},
    "sixteen-latents": {"block_out_channels": (6, 6), "norm_num_groups": 3, "latent_channels": 16},
    "no-quant-convs": {
        "block_out_channels": (8, 4),
        "norm_num_groups": 4,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "gelu": {"block_out_channels": (6, 12), "norm_num_groups": 3, "act_fn": "gelu"},
    "grey-relu": {
        "block_out_channels": (4, 4, 4, 8),
        "norm_num_groups": 2,
        "act_fn": "relu",
        "in_channels": 1,
        "out_channels": 1,
    },
}


def assert_same(model: fastvae.VAE, theirs: Any, height: int, width: int) -> None:
    """Encoding and decoding agree with diffusers' at images of a size."""
    x = images(theirs.config.in_channels, height, width)
    with torch.no_grad():
        expected = theirs.encode(x).latent_dist
        decoded = theirs.decode(expected.mean).sample
    found = model.encode(x)
    assert distance(found.mean, expected.mean) < BUDGET
    assert distance(found.logvar, expected.logvar) < BUDGET
    assert distance(model.decode(expected.mean), decoded) < BUDGET


@pytest.mark.parametrize("name", CONFIGS)
def test_autoencoder_kl_by_diffusers(name: str, tmp_path: Path) -> None:
    theirs = autoencoder_kl(**CONFIGS[name])
    theirs.save_pretrained(tmp_path)
    factor = 2 ** (len(CONFIGS[name]["block_out_channels"]) - 1)
    assert detect(tmp_path) == "diffusers"
    assert_same(loaded(tmp_path), theirs, 5 * factor, 7 * factor)


def test_latents_of_40_by_56(tmp_path: Path) -> None:
    theirs = autoencoder_kl(block_out_channels=(4, 6), norm_num_groups=2)
    theirs.save_pretrained(tmp_path)
    assert_same(loaded(tmp_path), theirs, 80, 112)


def test_logvars_are_clamped_as_there(tmp_path: Path) -> None:
    theirs = autoencoder_kl(block_out_channels=(4,), norm_num_groups=2)
    theirs.quant_conv.weight.data *= 100
    theirs.save_pretrained(tmp_path)
    model = loaded(tmp_path)
    assert_same(model, theirs, 8, 8)
    logvar = model.encode(images(3, 8, 8)).logvar
    assert (float(logvar.min()), float(logvar.max())) == (-30, 20)


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"safe_serialization": False},
        {"variant": "fp16"},
        {"variant": "fp16", "safe_serialization": False},
        {"max_shard_size": "200KB"},
        {"max_shard_size": "200KB", "safe_serialization": False},
        {"max_shard_size": "200KB", "variant": "fp16"},
    ],
    ids=str,
)
def test_every_way_diffusers_saves(saved: dict[str, Any], tmp_path: Path) -> None:
    theirs = small_kl()
    theirs.save_pretrained(tmp_path, **saved)
    names = {path.name for path in tmp_path.iterdir()}
    assert ("max_shard_size" in saved) == any("index" in name for name in names), names
    assert detect(tmp_path) == "diffusers"
    model = read_checkpoint(tmp_path)
    for name, weight in theirs.state_dict().items():
        assert torch.equal(model.weights[name.replace("to_out.0", "to_out")], weight), name


def test_a_variant_is_picked_by_its_path_and_the_plain_file_wins(tmp_path: Path) -> None:
    theirs = small_kl()
    theirs.save_pretrained(tmp_path)
    weights = {name: weight.half() for name, weight in theirs.state_dict().items()}
    variant = tmp_path / "diffusion_pytorch_model.fp16.safetensors"
    save_file(weights, variant)
    torch.save(weights, tmp_path / "diffusion_pytorch_model.bin")
    assert detect(variant) == "diffusers"
    assert read_checkpoint(tmp_path).spec.dtype == "float64"
    assert read_checkpoint(variant).spec.dtype == "float16"
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    assert read_checkpoint(tmp_path).spec.dtype == "float16"


def test_a_pipeline_has_it_in_a_subfolder(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    theirs = small_kl()
    theirs.save_pretrained(tmp_path / "vae")
    assert detect(tmp_path) == "diffusers"
    assert_same(loaded(tmp_path), theirs, 16, 16)


def test_what_a_config_leaves_out_is_as_diffusers_has_it(tmp_path: Path) -> None:
    theirs = autoencoder_kl(block_out_channels=(64,))
    theirs.save_pretrained(tmp_path)
    kept = {"_class_name": "AutoencoderKL"}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    model = loaded(tmp_path)
    assert model._engine.spec.input_shape == (3, 32, 32)
    assert_same(model, theirs, 8, 8)


@pytest.mark.parametrize(
    ("size", "shape", "latents"),
    [
        (64, (3, 64, 64), (4, 32, 32)),
        (33, (3, 34, 34), (4, 17, 17)),
        ([16, 24], (3, 16, 24), (4, 8, 12)),
    ],
)
def test_the_sample_size_is_the_images(size: Any, shape: Any, latents: Any, tmp_path: Path) -> None:
    spec = read_checkpoint(saved_kl(tmp_path, sample_size=size)).spec
    assert (spec.input_shape, spec.latent_shape) == (shape, latents)


def test_the_card_has_the_scales(tmp_path: Path) -> None:
    card = read_checkpoint(saved_kl(tmp_path, scaling_factor=0.5, shift_factor=0.25, latents_mean=[1, 2])).card
    assert card == {"scaling_factor": "0.5", "shift_factor": "0.25", "latents_mean": "[1, 2]"}
    assert read_checkpoint(with_config(tmp_path, scaling_factor=None)).card["scaling_factor"] == "0.18215"


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ({torch.float16}, "float16"),
        ({torch.bfloat16}, "bfloat16"),
        ({torch.float32}, "float32"),
        ({torch.float32, torch.float16}, "float32"),
        ({torch.float16, torch.bfloat16}, "float32"),
        ({torch.float64, torch.float16}, "float64"),
    ],
)
def test_the_dtype_is_that_of_the_weights(dtypes: set[torch.dtype], expected: str, tmp_path: Path) -> None:
    file = saved_kl(tmp_path) / "diffusion_pytorch_model.safetensors"
    first, *others = sorted(dtypes, key=str)
    weights = {
        name: weight.to(others[0] if others and weight.ndim < 2 else first) for name, weight in load_file(file).items()
    }
    save_file(weights, file)
    assert read_checkpoint(tmp_path, cast=True).spec.dtype == expected


@pytest.mark.parametrize("kernels", [False, True])
def test_old_names_of_attention(kernels: bool, tmp_path: Path) -> None:
    theirs = small_kl()
    theirs.save_pretrained(tmp_path)
    save_file(old_attention(theirs.state_dict(), kernels=kernels), tmp_path / "diffusion_pytorch_model.safetensors")
    assert_same(loaded(tmp_path), theirs, 16, 24)


@pytest.mark.parametrize(
    ("changes", "prefix", "suffix"),
    [
        ({}, "", ".safetensors"),
        ({"layers_per_block": 2}, "first_stage_model.", ".ckpt"),
        ({"block_out_channels": (32, 32, 64)}, "vae.", ".pt"),
        ({"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 16}, "", ".safetensors"),
        ({"mid_block_add_attention": False}, "first_stage_model.", ".safetensors"),
    ],
)
def test_ldm_single_files(changes: dict[str, Any], prefix: str, suffix: str, tmp_path: Path) -> None:
    theirs = small_kl(**changes)
    path = tmp_path / f"model{suffix}"
    weights = to_ldm(theirs.state_dict(), prefix)
    others = {"model.diffusion_model.out.weight": torch.zeros(3), "cond_stage_model.x": torch.zeros(2)}
    if suffix == ".safetensors":
        save_file(weights | others, path)
    else:
        content = {"state_dict": weights | others, "global_step": 3} if suffix == ".ckpt" else weights
        torch.save(content, path, _use_new_zipfile_serialization=suffix == ".pt")
    assert detect(path) == "ldm"
    assert_same(loaded(path), theirs, 16, 24)


def test_ldm_names_are_what_diffusers_takes_them_for() -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    theirs = small_kl(block_out_channels=(32, 64, 32), layers_per_block=2)
    weights = theirs.state_dict()
    converted = convert_ldm_vae_checkpoint(to_ldm(weights), dict(theirs.config))
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[name].reshape(weight.shape), weight) for name, weight in weights.items())


def test_ldm_attention_within_levels_and_other_latent_widths(tmp_path: Path) -> None:
    """What diffusers cannot say: attention after a level's blocks, and a quant_conv that changes the channels."""
    path = tmp_path / "model.safetensors"
    weights = to_ldm(small_kl().state_dict())
    for role in ("norm", "q", "k", "v", "proj_out"):
        for kind in ("weight", "bias"):
            weights[f"encoder.down.1.attn.0.{role}.{kind}"] = weights[f"encoder.mid.attn_1.{role}.{kind}"].clone()
    weights["quant_conv.weight"] = weights["quant_conv.weight"][:6].clone()
    weights["quant_conv.bias"] = weights["quant_conv.bias"][:6].clone()
    weights["post_quant_conv.weight"] = weights["post_quant_conv.weight"][:, :3].clone()
    save_file(weights, path)
    spec = read_checkpoint(path).spec
    assert spec.latent_shape == (3, 128, 128)
    names = [layer.name for layer in leaves(spec.encoder) if isinstance(layer, Attention)]
    assert names == ["encoder.down_blocks.1.attentions.0", "encoder.mid_block.attentions.0"]


def test_downsampling_pads_right_and_bottom_only(tmp_path: Path) -> None:
    spec = read_checkpoint(saved_kl(tmp_path)).spec
    halving = [layer for layer in leaves(spec.encoder) if isinstance(layer, Conv2d) and layer.stride == (2, 2)]
    assert [layer.paddings for layer in halving] == [(0, 0, 1, 1)]
    assert np.prod(spec.latent_shape) == 4 * 8 * 8
