"""``encode``, ``reconstruct`` and ``score`` into a folder of shards, and ``verify`` of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

import fastvae
from fastvae.formats import native
from fastvae.scaling import LatentScaling
from tests.fastvae.support import random_model
from tests.fastvae.test_sizes import SPEC

Call = Callable[..., Result]
IMAGES = 11


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model for images of any size, 16x16 by default, in [-1, 1]."""
    spec = replace(SPEC, pixel_range=(-1.0, 1.0), latent_scaling=LatentScaling(0.5))
    native.write(random_model(spec), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of pictures of 16x16 pixels."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (IMAGES, 16, 16, 3), dtype=np.uint8)):
        PIL.Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """Twenty rows for the model ``table``, and a column of names."""
    rows = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    lines = [f"p{i},{','.join(map(str, row))}" for i, row in enumerate(rows)]
    (tmp_path / "t.csv").write_text("\n".join(["name,a,b,c,d,e,f", *lines]))
    return tmp_path / "t.csv"


def rows_of(folder: Path) -> Any:
    """What a model of pixels in [-1, 1] is given."""
    pixels = [np.asarray(PIL.Image.open(path)) for path in sorted(folder.iterdir())]
    return 2 * (np.stack(pixels).astype(np.float32) / np.float32(255)).transpose(0, 3, 1, 2) - 1


def values_in(out: Path, name: str) -> Any:
    """A column of all shards."""
    columns = [pq.read_table(path)[name].combine_chunks() for path in sorted(out.glob("shard-*.parquet"))]
    flat = (column.flatten() if hasattr(column, "flatten") else column for column in columns)
    return np.concatenate(
        [values.to_numpy().reshape(len(column), -1) for values, column in zip(flat, columns, strict=True)]
    )


def test_images_into_a_folder(tmp_path: Path, call: Call, model: Path, images: Path) -> None:
    out = tmp_path / "z"
    arguments = ["encode", model, images, "-o", out, "--shard-size", 4]
    lines = call(*arguments).stderr.splitlines()
    assert lines[0].startswith(f"{out}: 4/11 rows, 1/3 shards, ")
    assert " rows/s" in lines[0]
    assert lines[-1].startswith(f"{out}: 11 rows in 3 shards, content ")
    expected = fastvae.load(model, batch_invariant=True).encode(rows_of(images))
    np.testing.assert_array_equal(values_in(out, "mean"), expected.mean.reshape(IMAGES, -1))
    np.testing.assert_array_equal(values_in(out, "logvar"), expected.logvar.reshape(IMAGES, -1))
    table = pq.read_table(out / "shard-000000002.parquet")
    assert table["file"].to_pylist() == ["08.png", "09.png", "10.png"]
    assert table["index"].to_pylist() == [8, 9, 10]
    assert "3 of 3 shards are there" in call(*arguments).stderr
    result = call("verify", out, "--model", model, "--data", images)
    assert result.output == f"{out}: 3 of 3 shards are as they were written, 11 rows made again\n"
    assert "data: a job of encode needs them" in call("verify", out, "--model", model, status=2).stderr
    (images / "03.png").write_bytes((images / "04.png").read_bytes())
    error = " ".join(call(*arguments, status=2).stderr.split())
    assert "data are not those that the job began with (03.png has changed)" in error


def test_float16_scaled_and_of_another_size(tmp_path: Path, call: Call, model: Path, images: Path) -> None:
    options = ["--size", "8x24", "--crop", "center", "--filter", "bicubic", "--dtype", "float16", "--scaled-latents"]
    output = ["--output", "mean", "--shards", "npy", "--pixels", "0..1"]
    call("encode", model, images, "-o", tmp_path / "z", *options, *output)
    found = np.load(tmp_path / "z" / "shard-000000000.npy")
    assert (found.dtype, found.shape) == (np.float16, (IMAGES, 4, 4, 12))
    first = PIL.Image.open(images / "00.png").resize((24, 24), PIL.Image.Resampling.BICUBIC).crop((0, 8, 24, 16))
    x = np.asarray(first, np.float32).transpose(2, 0, 1)[None] / 255
    np.testing.assert_allclose(found[:1], fastvae.load(model, scaled_latents=True).embed(x), rtol=2e-3, atol=1e-3)
    assert call("verify", tmp_path / "z", "--model", model, "--data", images).exit_code == 0


def test_bad_images(tmp_path: Path, call: Call, model: Path, images: Path) -> None:
    (images / "04.png").write_bytes((images / "04.png").read_bytes()[:100])
    out = tmp_path / "z"
    output = " ".join(call("encode", model, images, "-o", out, "--shard-size", 2, status=1).stderr.split())
    assert "row 4 (the first is 0; file '04.png')" in output
    assert "04.png: cannot be decoded" in output
    output = call("reconstruct", model, images, "-o", f"{tmp_path}/r/", "--invalid", "mask").stderr
    assert "11 rows in 1 shards, 1 of them rejected" in output
    (line,) = (tmp_path / "r" / "rejected-000000000.jsonl").read_text().splitlines()
    assert json.loads(line)["ids"] == {"file": "04.png"}
    assert np.isnan(values_in(tmp_path / "r", "reconstruction")).all(1).nonzero()[0].tolist() == [4]
    call("score", model, images, "--invalid", "mask", "-o", tmp_path / "s.npy")
    assert np.isnan(np.load(tmp_path / "s.npy")).nonzero()[0].tolist() == [4]


def test_scores_and_draws_of_a_table(tmp_path: Path, call: Call, models: Path, csv: Path) -> None:
    model = models / "table.safetensors"
    arguments = [model, tmp_path / "t*.csv", "--id-column", "name", "--shard-size", 8]
    call("score", *arguments, "-o", tmp_path / "s", "--metric", "elbo,mse", "--samples", 2, "--seed", 5, "--beta", 2)
    vae = fastvae.load(model, batch_invariant=True)
    x = np.loadtxt(csv, delimiter=",", skiprows=1, usecols=range(1, 7), dtype=np.float32)
    for metric in ("elbo", "mse"):
        expected = vae.score(x, metric, 2, 5, 2.0)
        np.testing.assert_array_equal(values_in(tmp_path / "s", metric)[:, 0], expected)
    call("encode", *arguments, "-o", tmp_path / "z", "--output", "sample", "--samples", 3, "--seed", 5, "--json")
    draws = np.moveaxis(vae.encode(x).sample(5, 3), 0, 1)
    np.testing.assert_array_equal(values_in(tmp_path / "z", "sample"), draws.reshape(20, 6))
    assert pq.read_table(tmp_path / "z" / "shard-000000002.parquet")["name"].to_pylist() == ["p16", "p17", "p18", "p19"]


def test_a_condition_of_every_row(tmp_path: Path, call: Call, models: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((9, 6), np.float32))
    np.save(tmp_path / "labels.npy", np.arange(9) % 3)
    arguments = [models / "labels.safetensors", tmp_path / "x.npy", "-o", tmp_path / "z"]
    call("encode", *arguments, "--condition", tmp_path / "labels.npy")
    options = ["--model", arguments[0], "--data", tmp_path / "x.npy", "--condition", tmp_path / "labels.npy"]
    call("verify", tmp_path / "z", *options)
    np.save(tmp_path / "labels.npy", np.arange(8) % 3)
    assert (
        "condition: expected (9, 3)"
        in call("encode", *arguments, "--condition", tmp_path / "labels.npy", status=2).stderr
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("encode m images -o z --dtype int8", "dtype: expected one of"),
        ("encode m images -o z --shard-size 0", "shard_size: expected an integer"),
        ("encode m images -o z --samples 2", "--samples: a folder of shards has draws with --output sample"),
        ("encode m images -o z --output logvar", "output: expected one of"),
        ("encode m images -o z --condition 2", "condition: this model is not conditional"),
        ("encode m images -o z --invalid propagate", "invalid: expected 'raise' or 'mask'"),
        ("encode m images -o z --size 8by8", "--size: expected HEIGHTxWIDTH"),
        ("encode m images -o z --size 7", "--size: "),
        ("encode m images -o z --pixels 1", "--pixels: expected BLACK..WHITE"),
        ("encode m images -o z --pixels 1..0", "--pixels: expected finite, ascending"),
        ("encode m images -o z --crop left", "--crop: expected one of none, center"),
        ("encode m images -o z --scale 2", "--scale means nothing for this kind of file"),
        ("encode m images -o z --force", "--force: not for a folder of shards"),
        ("encode m images -o z --no-batch-invariant", "--no-batch-invariant: the shards of a folder"),
        ("encode m nothing* -o z", "no such file or folder"),
        ("encode m images -o z.npy --output mean", "--output: only for a folder of shards"),
        ("encode m images -o z.npy --workers 2", "--workers: only for a folder of shards"),
        ("reconstruct m images -o z.npy --shards npy", "--shards: only for a folder of shards"),
        ("score m images -o z.npy --dtype float16", "--dtype: only for a folder of shards"),
        ("score m images --json", "--json: only for a folder of shards"),
        ("score m images -o z --metric elbo,", "metric: expected one of"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    call: Call,
    model: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(model) if word == "m" else word for word in arguments.split()]
    assert message in " ".join(call(*words, status=2).stderr.split())
    assert sorted(os.listdir(tmp_path)) == ["images", "m.safetensors"]


def test_images_of_another_size_are_bad_rows(tmp_path: Path, call: Call, model: Path, images: Path) -> None:
    error = call("encode", model, images, "-o", tmp_path / "z", "--size", 8, status=1).stderr
    assert "pass --resize to scale images, or --crop center" in " ".join(error.split())


def test_float16_that_cannot_hold_a_latent(tmp_path: Path, call: Call, images: Path) -> None:
    huge = replace(SPEC, latent_scaling=LatentScaling(1e7))
    native.write(random_model(huge), tmp_path / "h.safetensors")
    arguments = ["encode", tmp_path / "h.safetensors", images, "-o", tmp_path / "z", "--scaled-latents"]
    assert "a value is beyond float16; use float32" in call(*arguments, "--dtype", "float16", status=1).stderr


def test_pictures_of_a_model_with_its_own_pixel_range(tmp_path: Path, call: Call, model: Path, images: Path) -> None:
    """What goes in as a picture comes out as one: black is -1 inside, and 0 again outside."""
    call("reconstruct", model, images, "-o", tmp_path / "r.png")
    picture = np.asarray(PIL.Image.open(tmp_path / "r.png"))
    first = np.asarray(PIL.Image.open(images / "00.png"))
    factor = -(-56 // 16)
    np.testing.assert_array_equal(picture[2 : 2 + 16 * factor : factor, 2 : 2 + 16 * factor : factor], first)
    call("generate", model, "-n", 1, "-o", tmp_path / "g.png")
    expected = (fastvae.load(model, batch_invariant=True).generate(1)[0].transpose(1, 2, 0) + 1) / 2
    picture = np.asarray(PIL.Image.open(tmp_path / "g.png"))[2:-2:factor, 2:-2:factor]
    assert np.abs(picture - np.clip(expected * 255, 0, 255)).max() <= 0.51
