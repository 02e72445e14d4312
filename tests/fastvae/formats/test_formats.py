"""The formats: native, disentangling-vae and state dicts with a spec, and weights that do not match theirs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fastvae
from fastvae.errors import (
    InputError,
    OutputError,
    UnsafeFileError,
    UnsupportedError,
    WeightFormatError,
    WeightMismatchError,
)
from fastvae.formats import native, read_checkpoint
from fastvae.layers import Conv2d, ConvTranspose2d
from fastvae.model import Model, check_memory
from fastvae.spec import Bernoulli, GaussianHead, ModelSpec
from fastvae.spec_json import spec_to_json
from tests.fastvae.support import SPECS, mlp_spec, random_model

SPEC = mlp_spec()


@pytest.mark.parametrize("name", SPECS)
def test_native_round_trip(name: str, tmp_path: Path) -> None:
    model = random_model(SPECS[name])
    model = Model(model.spec, model.weights, {"title": "größer", "seed": "0"})
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    native.write(model, first)
    loaded = read_checkpoint(first)
    assert loaded.spec == model.spec
    assert loaded.card == model.card
    assert loaded.weights.keys() == model.weights.keys()
    assert all(torch.equal(loaded.weights[key], model.weights[key]) for key in model.weights)
    native.write(loaded, second)
    assert first.read_bytes() == second.read_bytes(), "equal models make equal bytes"


def test_native_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    model = fastvae.load("digits")
    with pytest.raises(InputError, match=r"ending in \.safetensors"):
        model.save(tmp_path / "model.bin")
    with pytest.raises(OutputError, match="cannot write"):
        model.save(tmp_path / "missing" / "model.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        model.save(tmp_path / "folder.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "expected a fastvae spec in the metadata"),
        ({"fastvae": "{"}, "is not JSON"),
        ({"fastvae": "[" * 100_000}, "is not JSON"),
        ({"fastvae": "[]"}, "must be an object with the fields 'spec' and 'card'"),
        ({"fastvae": '{"spec": {}}'}, "must be an object with the fields 'spec' and 'card'"),
        ({"fastvae": '{"spec": {}, "card": {"a": 1}}'}, "must hold text only"),
        ({"fastvae": '{"spec": {}, "card": {}}'}, "spec: expected a JSON object with the field 'fastvae_spec'"),
    ],
)
def test_native_metadata_that_is_malformed(metadata: dict[str, str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(1)}, path, metadata)
    with pytest.raises(WeightFormatError, match=message):
        fastvae.load(path)


def change(**weights: torch.Tensor | None) -> Model:
    """A good model with some of its weights replaced, or left out where None."""
    model = random_model(SPEC)
    named = {key.replace("__", "."): value for key, value in weights.items()}
    changed = {**model.weights, **named}
    return Model(model.spec, {key: value for key, value in changed.items() if value is not None})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (change(d__1__bias=None), "missing: 'd.1.bias'; unexpected: none"),
        (change(e__1__running_var=torch.full((8,), -1.0)), "'e.1.running_var' holds variances that are not positive"),
        (change(extra=torch.zeros(2)), "missing: none; unexpected: 'extra'"),
        (change(d__1__bias=torch.zeros(7)), r"'d.1.bias' has shape \(7,\), the spec needs \(6,\)"),
        (change(d__1__bias=torch.zeros(6, dtype=torch.int32)), "is int32, the spec declares float32; only floats"),
        (change(d__1__bias=torch.zeros(6, dtype=torch.float64)), "is float64, the spec declares float32; pass cast"),
        (change(d__1__bias=torch.zeros(6, dtype=torch.float16)), "is float16, the spec declares float32; pass cast"),
        (change(d__1__bias=torch.full((6,), torch.nan)), "holds NaN or Inf; pass allow_nonfinite"),
        (change(d__1__bias=torch.full((6,), torch.inf)), "holds NaN or Inf; pass allow_nonfinite"),
    ],
)
def test_weights_that_do_not_match(model: Model, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    native.write(model, path)
    with pytest.raises(WeightMismatchError, match=message) as caught:
        fastvae.load(path)
    assert str(path) in str(caught.value)


def test_weights_are_cast_or_left_broken_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    native.write(change(d__1__bias=torch.full((6,), 0.25, dtype=torch.float64)), path)
    assert fastvae.load(path, cast=True).generate(1).dtype == np.float32
    native.write(change(d__1__bias=torch.full((6,), torch.nan)), path)
    assert np.isnan(fastvae.load(path, allow_nonfinite=True).generate(1)).all()
    native.write(change(d__1__bias=torch.zeros(6, dtype=torch.int64)), path)
    with pytest.raises(WeightMismatchError, match="only floats can be weights"):
        fastvae.load(path, cast=True)


def test_a_spec_beyond_the_memory_cap_is_refused_before_allocating(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    native.write(random_model(SPEC), path)
    with pytest.raises(WeightMismatchError, match=r"asks for .* bytes, more than max_memory=500"):
        fastvae.load(path, max_memory=500)
    document = json.loads(spec_to_json(SPEC))
    document["encoder"] = [{"kind": "linear", "name": "huge", "in_features": 6, "out_features": 2**40}, *()]
    document["encoder"].append({"kind": "linear", "name": "e.0", "in_features": 2**40, "out_features": 8})
    (tmp_path / "huge.json").write_text(json.dumps(document))
    with pytest.raises(WeightMismatchError, match="more than max_memory"):
        fastvae.load(path, spec=tmp_path / "huge.json")


def test_activations_inside_a_head_count_towards_the_memory_cap() -> None:
    wide = (ConvTranspose2d("up", 1, 1, (1, 1), (1000, 1000)), Conv2d("down", 1, 1, (1, 1), (1000, 1000)))
    flat = (Conv2d("scale_", 1, 1, (1, 1)),)
    spec = ModelSpec(
        input_shape=(1, 4, 4),
        latent_shape=(1, 4, 4),
        encoder=(),
        posterior=GaussianHead("separate", mean=wide, scale=flat),
        decoder=(),
        likelihood=Bernoulli(),
    )
    with pytest.raises(WeightMismatchError, match="more than max_memory"):
        check_memory(spec, source="spec", max_memory=2**20)


def trained_with_pytorch() -> tuple[torch.nn.Module, dict[str, Any]]:
    """A module of somebody's, with batch norm's counter in its state dict, and a spec for it."""
    module = torch.nn.ModuleDict(
        {
            "e": torch.nn.ModuleList([torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8)]),
            "q": torch.nn.ModuleDict({"mean": torch.nn.Linear(8, 3), "scale_": torch.nn.Linear(8, 3)}),
            "d": torch.nn.ModuleList([torch.nn.Linear(3, 8), torch.nn.Linear(8, 6)]),
        }
    )
    return module.eval(), json.loads(spec_to_json(SPEC))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_state_dict_with_a_spec(suffix: str, tmp_path: Path) -> None:
    module, document = trained_with_pytorch()
    weights, spec = tmp_path / f"weights{suffix}", tmp_path / "spec.json"
    if suffix == ".safetensors":
        save_file(dict(module.state_dict()), weights)
    else:
        torch.save(module.state_dict(), weights)
    spec.write_text(json.dumps(document))
    x = np.random.default_rng(0).random((4, 6)).astype(np.float32)
    with torch.no_grad():
        h = torch.nn.functional.silu(module["e"][1](module["e"][0](torch.from_numpy(x))))  # type: ignore[index]
        expected = module["q"]["mean"](h).numpy()  # type: ignore[index]
    for source, given in ((weights, spec), (tmp_path, None), (weights, SPEC), (tmp_path, str(spec))):
        found = fastvae.load(source, spec=given).embed(x)
        # One hidden layer of 8: a few roundings of values of order one.
        np.testing.assert_allclose(found, expected, atol=16 * 2.0**-24)


def test_state_dicts_that_are_not_enough(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(spec_to_json(SPEC))
    with pytest.raises(InputError, match=r"expected one weights file .* found none"):
        fastvae.load(tmp_path)
    torch.save(trained_with_pytorch()[0].state_dict(), tmp_path / "a.pt")
    with pytest.raises(InputError, match="plain weights need a spec"):
        fastvae.load(tmp_path / "a.pt")
    torch.save({"d.0.weight": torch.zeros(1)}, tmp_path / "b.pt")
    with pytest.raises(InputError, match=r"found a\.pt, b\.pt"):
        fastvae.load(tmp_path)
    with pytest.raises(WeightMismatchError, match=r"missing: 'd\.0\.bias'"):
        fastvae.load(tmp_path / "b.pt", spec=SPEC)


def burgess(size: int, latent_dim: int, channels: int) -> dict[str, torch.Tensor]:
    """Random weights under disentangling-vae's names."""
    shapes: dict[str, tuple[int, ...]] = {}
    extra = {"conv_64"} if size == 64 else set()
    for i, name in enumerate(["conv1", "conv2", "conv3", *extra]):
        shapes[f"encoder.{name}"] = (32, channels if i == 0 else 32, 4, 4)
    shapes |= {"encoder.lin1": (256, 512), "encoder.lin2": (256, 256)}
    shapes["encoder.mu_logvar_gen"] = (2 * latent_dim, 256)
    shapes |= {"decoder.lin1": (256, latent_dim), "decoder.lin2": (256, 256), "decoder.lin3": (512, 256)}
    for name in ["convT1", "convT2", *(["convT_64"] if size == 64 else [])]:
        shapes[f"decoder.{name}"] = (32, 32, 4, 4)
    shapes["decoder.convT3"] = (32, channels, 4, 4)
    tensors = {}
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        bias = shape[1] if name.startswith("decoder.conv") else shape[0]
        for key, dims in (("weight", shape), ("bias", (bias,))):
            tensors[f"{name}.{key}"] = (torch.rand(dims, generator=generator) - 0.5) / 8
    return tensors


def disvae_folder(path: Path, size: int = 32, *, channels: int = 1, **specs: object) -> Path:
    path.mkdir(exist_ok=True)
    torch.save(burgess(size, 10, channels), path / "model.pt", _use_new_zipfile_serialization=False)
    document = {"img_size": [channels, size, size], "latent_dim": 10, "model_type": "Burgess", **specs}
    (path / "specs.json").write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (64, 3)])
def test_disentangling_vae_by_its_own_definition(size: int, channels: int, tmp_path: Path) -> None:
    model = fastvae.load(disvae_folder(tmp_path, size, channels=channels), precision="float64")
    w = {key: value.double() for key, value in burgess(size, 10, channels).items()}
    x = torch.rand(3, channels, size, size, dtype=torch.float64)
    F = torch.nn.functional
    h = x
    for name in ["conv1", "conv2", "conv3", *(["conv_64"] if size == 64 else [])]:
        h = F.relu(F.conv2d(h, w[f"encoder.{name}.weight"], w[f"encoder.{name}.bias"], 2, 1))
    h = h.view(3, -1)
    for name in ("lin1", "lin2"):
        h = F.relu(F.linear(h, w[f"encoder.{name}.weight"], w[f"encoder.{name}.bias"]))
    raw = F.linear(h, w["encoder.mu_logvar_gen.weight"], w["encoder.mu_logvar_gen.bias"])
    mean, logvar = raw.view(-1, 10, 2).unbind(-1)
    q = model.encode(x)
    torch.testing.assert_close(q.mean, mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(q.logvar, logvar, rtol=1e-12, atol=1e-14)
    h = mean
    for name in ("lin1", "lin2", "lin3"):
        h = F.relu(F.linear(h, w[f"decoder.{name}.weight"], w[f"decoder.{name}.bias"]))
    h = h.view(3, 32, 4, 4)
    for name in [*(["convT_64"] if size == 64 else []), "convT1", "convT2"]:
        h = F.relu(F.conv_transpose2d(h, w[f"decoder.{name}.weight"], w[f"decoder.{name}.bias"], 2, 1))
    h = torch.sigmoid(F.conv_transpose2d(h, w["decoder.convT3.weight"], w["decoder.convT3.bias"], 2, 1))
    torch.testing.assert_close(model.reconstruct(x), h, rtol=1e-12, atol=1e-14)


def test_disentangling_vae_gaussian_loss(tmp_path: Path) -> None:
    """Its loss is the squared error of pixels times 255, divided by 255; ours adds the normalising constant."""
    model = fastvae.load(disvae_folder(tmp_path, rec_dist="gaussian"), precision="float64")
    x = np.random.default_rng(0).random((2, 1, 32, 32))
    loss = ((x * 255 - model.reconstruct(x) * 255) ** 2).reshape(2, -1).sum(1) / 255
    constant = 0.5 * 1024 * np.log(2 * np.pi / 510)
    np.testing.assert_allclose(model.score(x), loss + constant, rtol=1e-12)


@pytest.mark.parametrize(
    ("specs", "error", "message"),
    [
        ({"latent_dim": "ten"}, WeightFormatError, "latent_dim must be a positive integer"),
        ({"img_size": [1, 32]}, WeightFormatError, "img_size must be"),
        ({"img_size": [1, 28, 28]}, WeightFormatError, "32x32 and 64x64 images, found 28x28"),
        ({"model_type": "Locatello"}, UnsupportedError, "model_type 'Locatello'"),
        ({"rec_dist": "laplace"}, UnsupportedError, "rec_dist 'laplace' is not supported; accepted"),
        ({"latent_dim": 11}, WeightMismatchError, "decoder.lin1.weight|mu_logvar_gen"),
    ],
)
def test_disentangling_vae_folders_that_are_wrong(
    specs: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        fastvae.load(disvae_folder(tmp_path, **specs))  # type: ignore[arg-type]


def test_disentangling_vae_files_that_are_broken(tmp_path: Path) -> None:
    folder = disvae_folder(tmp_path)
    (folder / "model.pt").write_bytes(b"junk")
    with pytest.raises(UnsafeFileError, match=r"model\.pt"):
        fastvae.load(folder)
    for text in ("[]", "{", ""):
        (folder / "specs.json").write_text(text)
        with pytest.raises(WeightFormatError, match=r"specs\.json"):
            fastvae.load(folder)


def test_embedded_models_have_whole_cards() -> None:
    cards = fastvae.models()
    assert {card.name for card in cards} == {"breast_cancer", "digits", "mnist"}
    assert sum(card.path.stat().st_size for card in cards) < 1_500_000
    for card in cards:
        assert isinstance(card, fastvae.ModelCard)
        assert {"title", "data", "licence", "command", "seed", "held_out_elbo"} <= card.card.keys()
        model = fastvae.load(card.name)
        assert model.card == card.card
        assert np.isfinite(model.generate(3)).all()


def test_specs_are_hashable_and_frozen() -> None:
    assert {SPEC, dataclasses.replace(SPEC)} == {SPEC}
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.name = "other"  # type: ignore[misc]
