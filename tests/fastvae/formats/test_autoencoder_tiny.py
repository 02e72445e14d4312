"""Tiny autoencoders: diffusers' by diffusers, raw ones by their definition; and which reader takes which file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import fastvae
from fastvae.errors import InputError
from fastvae.formats import READERS, detect, native, read_checkpoint
from fastvae.layers import Conv2d
from fastvae.spec import FixedGaussian, ModelSpec, PointHead
from tests.fastvae.formats.made_autoencoders import (
    BUDGET,
    autoencoder_tiny,
    distance,
    images,
    loaded,
    raw_networks,
    saved_raw,
    small_kl,
    to_ldm,
)
from tests.fastvae.support import random_model

TINY: dict[str, Any] = {
    "encoder_block_out_channels": (6, 6, 6),
    "decoder_block_out_channels": (7, 7, 7),
    "num_encoder_blocks": (1, 2, 1),
    "num_decoder_blocks": (2, 1, 1),
}


@pytest.mark.parametrize(
    "changes", [{}, {"latent_channels": 16}, {"act_fn": "silu", "in_channels": 1, "out_channels": 1}]
)
def test_autoencoder_tiny_by_diffusers(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = autoencoder_tiny(**TINY | changes)
    theirs.save_pretrained(tmp_path)
    model = loaded(tmp_path)
    x = images(theirs.config.in_channels, 40, 56)
    with torch.no_grad():
        latents = theirs.encode(x).latents
        decoded = theirs.decode(latents).sample
    assert distance(model.embed(x), latents) < BUDGET
    assert torch.isneginf(model.encode(x).logvar).all()
    assert distance(model.decode(latents), decoded) < BUDGET
    assert model.card["scaling_factor"] == "1.0"


def test_tiny_weights_of_16_bits_are_computed_with_in_32(tmp_path: Path) -> None:
    """3 tanh(x / 3) with a third rounded to 16 bits would be another function."""
    theirs = autoencoder_tiny(**TINY).half().double()
    theirs.half().save_pretrained(tmp_path)
    model = loaded(tmp_path)
    latents = 2 * images(4, 10, 14)
    with torch.no_grad():
        decoded = theirs.double().decode(latents).sample
    assert distance(model.decode(latents), decoded) < 1e-6


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("variant", [{}, {"pooled": True}, {"early": True}])
def test_taesd_by_its_definition(variant: dict[str, bool], suffix: str, tmp_path: Path) -> None:
    encoder, decoder = raw_networks(**variant)
    folder = saved_raw(tmp_path, (encoder, decoder), suffix=suffix)
    x = (images(3, 24, 40) + 1) / 2
    with torch.no_grad():
        latents = encoder(x)
        decoded = decoder(latents)
    for source in (folder, folder / f"tiny_encoder{suffix}", folder / f"tiny_decoder{suffix}"):
        assert detect(source) == "taesd"
        model = loaded(source)
        assert distance(model.embed(x), latents) < BUDGET
        assert distance(model.decode(latents), decoded) < BUDGET


def test_taesd_folders_of_several(tmp_path: Path) -> None:
    networks = raw_networks()
    for suffix in (".pth", ".safetensors"):
        saved_raw(tmp_path, networks, suffix=suffix)
    assert isinstance(read_checkpoint(tmp_path).spec.posterior, PointHead), "one model saved twice is one model"
    saved_raw(tmp_path, networks, name="other")
    with pytest.raises(InputError, match=r"found other_encoder\.pth, tiny_encoder\.safetensors; pass the path of one"):
        read_checkpoint(tmp_path)
    assert read_checkpoint(tmp_path / "other_decoder.pth").spec.dtype == "float64"
    (tmp_path / "other_encoder.pth").unlink()
    with pytest.raises(InputError, match="expected two files NAME_encoder and NAME_decoder"):
        read_checkpoint(tmp_path / "other_decoder.pth", format="taesd")


def test_what_is_read_is_kept_as_a_native_file(tmp_path: Path) -> None:
    """Converted files are recognised as our own, whatever their names and their tensors' names are."""
    saved_raw(tmp_path, raw_networks())
    raw = fastvae.load(tmp_path / "tiny_encoder.pth")
    for side in ("encoder", "decoder"):
        raw.save(tmp_path / f"own_{side}.safetensors")
    layer = Conv2d("encoder.down.0.block.0.conv1", 1, 1, (1, 1))
    spec = ModelSpec((1, 2, 2), (1, 2, 2), (layer,), PointHead(), (layer,), FixedGaussian())
    native.write(random_model(spec), tmp_path / "ldm.safetensors")
    for path in tmp_path.glob("*.safetensors"):
        assert detect(path) == "native"
        model = read_checkpoint(path)
        assert model.weights.keys() == model.spec.tensors().keys()
    assert read_checkpoint(tmp_path / "own_encoder.safetensors").spec == raw._engine.spec


def test_no_two_formats_claim_one_path(tmp_path: Path) -> None:
    kl, raw = tmp_path / "kl", tmp_path / "raw"
    small_kl().save_pretrained(kl)
    raw.mkdir()
    saved_raw(raw, raw_networks())
    ldm = tmp_path / "ldm.safetensors"
    save_file(to_ldm(small_kl().state_dict()), ldm)
    claims = {
        path: [
            name for name, reader in READERS.items() if name not in ("native", "state-dict") and reader.matches(path)
        ]
        for path in (kl, kl / "diffusion_pytorch_model.safetensors", raw, raw / "tiny_decoder.pth", ldm, tmp_path)
    }
    assert list(claims.values()) == [["diffusers"], ["diffusers"], ["taesd"], ["taesd"], ["ldm"], []]
