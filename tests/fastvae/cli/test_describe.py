"""``inspect``, ``explain``, ``convert`` and ``models``."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import Result

import fastvae
from fastvae import LatentScaling
from fastvae.formats import native
from fastvae.spec_json import spec_to_json
from tests.fastvae.support import SPECS, random_model

Call = Callable[..., Result]


def test_inspect(call: Call) -> None:
    output = call("inspect", "digits").output
    for text in (
        "native",
        "[1, 8, 8]",
        "bernoulli",
        "36,320",
        "145,280",
        "linear encoder.hidden1",
        "8,320",
        "CC BY 4.0",
    ):
        assert text in output


def test_inspect_json(call: Call, models: Path) -> None:
    facts = json.loads(call("inspect", models / "labels.safetensors", "--json").output)
    assert facts["format"] == "native"
    assert facts["input_shape"] == [6]
    assert facts["condition"] == "3 numbers, joined to the encoder and the decoder"
    assert facts["parameters"] == 9 * 5 + 5 + 2 * (5 * 2 + 2) + 5 * 6 + 6
    assert facts["weight_bytes"] == 4 * facts["parameters"]
    assert facts["encode_flops_per_row"] >= 2 * (9 * 5 + 2 * 5 * 2)
    assert facts["spec"]["latent_shape"] == [2]


def test_inspect_shows_what_is_inside_of_residuals(call: Call, tmp_path: Path) -> None:
    native.write(random_model(SPECS["conv_residual"]), tmp_path / "m.safetensors")
    lines = [line.split("│")[1:] for line in call("inspect", tmp_path / "m.safetensors").output.splitlines()]
    rows = {cells[1].strip(): cells[3].strip() for cells in lines if len(cells) == 5}
    inside = sum(4 * size + 4 for size in (2 * 9, 4, 2)) + 2 * 4 * 4
    assert str(inside) in (cells[3].strip() for cells in lines if len(cells) == 5)
    assert "conv2d e.2 kernel_size (1, 1)" in rows
    assert "shortcut batch_norm e.4" in rows


def test_explain(call: Call) -> None:
    output = call("explain", "digits", "--verb", "elbo", "--rows", 256, "--device", "h100").output
    for text in (
        "elbo, 256 rows, ieee, predicted for H100, H200 (sm_90)",
        "bottleneck",
        "linear_score",
        "total",
        "memory: ",
    ):
        assert text in output


def test_explain_json(call: Call, models: Path) -> None:
    path = models / "labels.safetensors"
    facts = json.loads(call("explain", path, "--device", "cpu", "--precision", "float64", "--json").output)
    assert (facts["verb"], facts["rows"], facts["precision"]) == ("reconstruct", 1, "float64")
    assert facts["flops"] >= 2 * (9 * 5 + 5 * 2 + 5 * 6)
    assert [step["op"] for step in facts["steps"]] == ["join", "linear", "linear", "join", "linear"]


def test_explain_refuses(call: Call) -> None:
    assert "device: expected cpu or one of" in call("explain", "digits", "--device", "abacus", status=2).output
    assert "verb: expected one of" in call("explain", "digits", "--verb", "dream", status=2).output


def test_convert_plain_weights(tmp_path: Path, call: Call, models: Path) -> None:
    source = native.read(models / "table.safetensors")
    save_file(load_file(models / "table.safetensors"), tmp_path / "weights.safetensors")
    (tmp_path / "spec.json").write_text(spec_to_json(source.spec))
    out = tmp_path / "o.safetensors"
    options = ["--spec", tmp_path / "spec.json", "--out", out]
    output = call("convert", tmp_path / "weights.safetensors", *options).output
    assert output == f"{out}: from state-dict, input [6], latent [2], 77 parameters, {out.stat().st_size:,} bytes\n"
    rows = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    before, after = fastvae.load(models / "table.safetensors"), fastvae.load(out)
    np.testing.assert_array_equal(before.reconstruct(rows), after.reconstruct(rows))
    np.testing.assert_array_equal(before.generate(5), after.generate(5))


def test_convert_casts_only_when_asked(tmp_path: Path, call: Call, models: Path) -> None:
    source = native.read(models / "table.safetensors")
    halves = {name: weight.half() for name, weight in source.weights.items()}
    save_file(halves, tmp_path / "weights.safetensors")
    (tmp_path / "spec.json").write_text(spec_to_json(source.spec))
    options = ["--spec", tmp_path / "spec.json", "--out", tmp_path / "o.safetensors"]
    assert "float16" in call("convert", tmp_path / "weights.safetensors", *options, status=2).output
    call("convert", tmp_path / "weights.safetensors", *options, "--cast")
    assert native.read(tmp_path / "o.safetensors").spec == source.spec


def test_convert_refuses(tmp_path: Path, call: Call) -> None:
    output = call("convert", "digits", "--out", tmp_path / "o.pt", status=2).output
    assert "expected a name ending in .safetensors" in output


def test_models(call: Call) -> None:
    output = call("models").output
    assert "digits" in output
    assert "36,320" in output
    documents = json.loads(call("models", "--json").output)
    assert [document["name"] for document in documents] == [card.name for card in fastvae.models()]
    assert all(Path(document["path"]).is_file() and document["card"] for document in documents)


@pytest.mark.parametrize("name", [card.name for card in fastvae.models()])
def test_every_embedded_model_can_be_inspected(call: Call, name: str) -> None:
    assert name in call("inspect", name).output


def test_inspect_shows_by_what_latents_are_scaled(call: Call, tmp_path: Path) -> None:
    facts = json.loads(call("inspect", "digits", "--json").output)
    assert (facts["latent_scaling"], facts["pixel_range"]) == (None, None)
    spec = dataclasses.replace(SPECS["conv"], latent_scaling=LatentScaling(0.5, 0.25), pixel_range=(-1.0, 1.0))
    native.write(random_model(spec), tmp_path / "m.safetensors")
    facts = json.loads(call("inspect", tmp_path / "m.safetensors", "--json").output)
    assert facts["latent_scaling"] == "scaling_factor 0.5, shift_factor 0.25"
    assert facts["pixel_range"] == [-1.0, 1.0]
