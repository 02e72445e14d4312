"""``encode`` into a folder of parts: what is in them, and going on after an interruption."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from typer.testing import Result

import fastvae
from fastvae.api import VAE
from fastvae.errors import OutputError
from fastvae.files import Parts
from fastvae.formats import native
from fastvae.layers import Conv2d
from fastvae.scaling import LatentScaling
from fastvae.spec import PointHead
from tests.fastvae.support import random_model
from tests.fastvae.test_sizes import SPEC

Call = Callable[..., Result]
IMAGES = 11

pytestmark = pytest.mark.usefixtures("small_blocks")


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


def rows_of(folder: Path) -> Any:
    """What a model of pixels in [-1, 1] is given."""
    pixels = [np.asarray(PIL.Image.open(path)) for path in sorted(folder.iterdir())]
    return 2 * (np.stack(pixels).astype(np.float32) / np.float32(255)).transpose(0, 3, 1, 2) - 1


def together(folder: Path, name: str) -> Any:
    """An array of all parts."""
    parts = []
    for path in sorted(folder.glob("part-*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            parts.append(arrays[name])
    return np.concatenate(parts)


def test_parts(tmp_path: Path, call: Call, model: Path, images: Path) -> None:
    output = call("encode", model, images, "-o", tmp_path / "z", "--part-rows", 4, "--batch-invariant").stderr
    assert f"{tmp_path / 'z'}: 11 rows in 3 parts" in output
    assert sorted(os.listdir(tmp_path / "z")) == [f"part-{i:05}-of-00003.npz" for i in range(3)]
    expected = fastvae.load(model, batch_invariant=True).encode(rows_of(images))
    np.testing.assert_array_equal(together(tmp_path / "z", "mean"), expected.mean)
    np.testing.assert_array_equal(together(tmp_path / "z", "logvar"), expected.logvar)
    assert together(tmp_path / "z", "ids").tolist() == [f"{i:02}.png" for i in range(IMAGES)]


def test_float16_scaled_and_of_another_size(tmp_path: Path, call: Call, model: Path, images: Path) -> None:
    options = ["--size", "8x24", "--crop", "center", "--filter", "bicubic", "--dtype", "float16", "--scaled-latents"]
    call("encode", model, images, "-o", tmp_path / "z", "--pixels", "0..1", *options, "--readers", 2)
    found = together(tmp_path / "z", "mean")
    assert (found.dtype, found.shape) == (np.float16, (IMAGES, 4, 4, 12))
    first = PIL.Image.open(images / "00.png").resize((24, 24), PIL.Image.Resampling.BICUBIC).crop((0, 8, 24, 16))
    x = np.asarray(first, np.float32).transpose(2, 0, 1)[None] / 255
    np.testing.assert_allclose(found[:1], fastvae.load(model, scaled_latents=True).embed(x), rtol=2e-3, atol=1e-3)


def test_an_array_has_row_numbers_and_a_point_no_variance(tmp_path: Path, call: Call) -> None:
    spec = replace(SPEC, posterior=PointHead((Conv2d("q", 8, 4, (1, 1)),)))
    native.write(random_model(spec), tmp_path / "p.safetensors")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((5, 3, 16, 16), np.float32))
    call("encode", tmp_path / "p.safetensors", tmp_path / "x.npy", "-o", tmp_path / "z", "--part-rows", 2)
    assert together(tmp_path / "z", "ids").tolist() == list(range(5))
    with np.load(tmp_path / "z" / "part-00002-of-00003.npz") as arrays:
        assert sorted(arrays) == ["ids", "job", "mean"]


def test_what_is_there_is_not_done_again(
    tmp_path: Path, call: Call, model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["encode", model, images, "-o", tmp_path / "z", "--part-rows", 3, "--batch-invariant"]
    call(*arguments)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "z").iterdir()}
    (tmp_path / "z" / "part-00001-of-00004.npz").unlink()
    (tmp_path / "z" / ".part-00001-of-00004.npz.abc.part").write_bytes(b"half of one")
    kept = (tmp_path / "z" / "part-00000-of-00004.npz").stat().st_mtime_ns
    encoded: list[int] = []
    encode = VAE.encode

    def counting(self: VAE, x: Any, **options: Any) -> Any:
        encoded.append(len(x))
        return encode(self, x, **options)

    monkeypatch.setattr(VAE, "encode", counting)
    call(*arguments)
    assert sum(encoded) == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "z").iterdir()} == whole
    assert (tmp_path / "z" / "part-00000-of-00004.npz").stat().st_mtime_ns == kept
    call(*arguments)
    assert sum(encoded) == 3
    call(*arguments, "--force")
    assert sum(encoded) == 3 + IMAGES


def test_an_interruption_says_how_to_go_on(
    tmp_path: Path, call: Call, model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Parts.write

    def interrupted(self: Parts, index: int, arrays: Any) -> None:
        if index == 2:
            raise KeyboardInterrupt
        written(self, index, arrays)

    arguments = ["encode", model, images, "-o", tmp_path / "z", "--part-rows", 3]
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "write", interrupted)
        output = call(*arguments, status=130).stderr
    assert "2 of 4 parts are written; the same command goes on" in output
    call(*arguments)
    assert len(together(tmp_path / "z", "mean")) == IMAGES


def test_a_killed_run_goes_on(tmp_path: Path, call: Call, model: Path, images: Path) -> None:
    """A run that is killed at a rename, after two parts, leaves those and half of one more; the next does the rest."""
    arguments = ["encode", model, images, "-o", tmp_path / "z", "--part-rows", 3, "--impl", "reference"]
    process = os.fork()
    if process == 0:
        torch.set_num_threads(1)  # a fork has none of its parent's
        replace_file, renamed = os.replace, []

        def killing(*names: Any) -> None:
            if len(renamed) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            renamed.append(names)
            replace_file(*names)

        os.replace = killing
        try:
            call(*arguments)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    left = sorted(path.name for path in (tmp_path / "z").iterdir())
    assert len(left) == 3
    assert left[0].startswith(".part-00002-of-00004.npz.")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("z/part-*.npz")}
    call(*arguments)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    expected = fastvae.load(model, impl="reference").embed(rows_of(images))
    np.testing.assert_allclose(together(tmp_path / "z", "mean"), expected, rtol=1e-5, atol=1e-5)
    assert not list(tmp_path.glob("z/.part*"))


def test_bad_images(tmp_path: Path, call: Call, model: Path, images: Path) -> None:
    (images / "04.png").write_bytes((images / "04.png").read_bytes()[:100])
    arguments = ["encode", model, images, "-o", tmp_path / "z", "--part-rows", 2]
    assert "04.png: cannot be decoded" in call(*arguments, status=2).stderr
    output = call(*arguments, "--invalid", "mask").stderr
    assert "1 images could not be read, their rows are NaN; the first:" in output
    assert np.isnan(together(tmp_path / "z", "mean")).all((1, 2, 3)).nonzero()[0].tolist() == [4]
    scores = call("score", model, images, "--invalid", "mask", "-o", tmp_path / "s.npy")
    assert scores.exit_code == 0
    assert np.isnan(np.load(tmp_path / "s.npy")).nonzero()[0].tolist() == [4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "float16"], "dtype was 'float32', is 'float16'"),
        (["--pixels", "0..1"], "pixel_range was [-1.0, 1.0], is [0.0, 1.0]"),
        (["--scaled-latents"], "scaled_latents was False, is True"),
        (["--part-rows", "4"], "expected 3 parts of 4 rows"),
        (["--size", "8", "--resize"], "resize was False, is True"),
    ],
)
def test_another_job_is_refused(
    tmp_path: Path, call: Call, model: Path, images: Path, options: list[str], message: str
) -> None:
    arguments = ["encode", model, images, "-o", tmp_path / "z", "--part-rows", 3]
    call(*arguments)
    error = " ".join(call(*arguments, *options, status=2).stderr.split())
    assert message in error
    assert "write to another folder, or pass --force to begin anew" in error


def test_other_rows_and_broken_parts_are_refused(tmp_path: Path, call: Call, model: Path, images: Path) -> None:
    arguments = ["encode", model, images, "-o", tmp_path / "z", "--part-rows", 3]
    call(*arguments)
    (images / "05.png").rename(images / "05b.png")
    assert "its rows are not those of the data" in call(*arguments, status=2).stderr
    (tmp_path / "z" / "part-00001-of-00004.npz").write_bytes(b"PK no part")
    assert "part-00001-of-00004.npz cannot be read" in call(*arguments, status=2).stderr


def test_one_process_at_a_time(tmp_path: Path) -> None:
    job: dict[str, Any] = {"model": "m"}
    with Parts(tmp_path / "z", np.arange(3), job, 2), pytest.raises(OutputError, match="by another process"):
        Parts(tmp_path / "z", np.arange(3), job, 2).__enter__()
    with Parts(tmp_path / "z", np.arange(3), job, 2) as parts:
        assert parts.missing() == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "int8"], "--dtype: expected one of float32, float16"),
        (["--part-rows", "0"], "--part-rows: expected an integer"),
        (["--readers", "0"], "--readers: expected an integer"),
        (["--samples", "2"], "a folder of parts has neither"),
        (["--condition", "2"], "a folder of parts has neither"),
        (["--size", "8by8"], "--size: expected HEIGHTxWIDTH"),
        (["--size", "7"], "--size: "),
        (["--pixels", "1"], "--pixels: expected BLACK..WHITE"),
        (["--pixels", "1..0"], "--pixels: expected finite, ascending"),
        (["--crop", "left"], "--crop: expected one of none, center"),
        (["--size", "8"], "pass --resize to scale images, or --crop center"),
    ],
)
def test_mistakes(tmp_path: Path, call: Call, model: Path, images: Path, options: list[str], message: str) -> None:
    error = call("encode", model, images, "-o", tmp_path / "z", *options, status=2).stderr
    assert message in " ".join(error.split())
    assert not list(tmp_path.glob("z/*"))


def test_one_column_of_ids(tmp_path: Path, call: Call, models: Path) -> None:
    names = [f"x{i}" for i in range(6)]
    table = np.column_stack([np.arange(5), np.arange(5) * 10, np.zeros((5, 6))])
    np.savetxt(tmp_path / "t.csv", table, delimiter=",", header=",".join(["a", "b", *names]), comments="", fmt="%g")
    arguments = ["encode", models / "table.safetensors", tmp_path / "t.csv", "-o", tmp_path / "z", "--id-column", "b"]
    assert "a part has one array of ids, found b, a" in call(*arguments, "--id-column", "a", status=2).stderr
    np.savetxt(tmp_path / "t.csv", table[:, 1:], delimiter=",", header=",".join(["b", *names]), comments="", fmt="%g")
    call(*arguments, "--part-rows", 2)
    assert together(tmp_path / "z", "ids").tolist() == ["0", "10", "20", "30", "40"]


def test_folders_that_cannot_be(tmp_path: Path, call: Call, model: Path, images: Path) -> None:
    assert "no such folder" in call("encode", model, images, "-o", tmp_path / "a/b", status=2).stderr
    (tmp_path / "file").touch()
    assert "cannot write to" in call("encode", model, images, "-o", tmp_path / "file", status=2).stderr


def test_float16_that_cannot_hold_a_latent(tmp_path: Path, call: Call, images: Path) -> None:
    huge = replace(SPEC, latent_scaling=LatentScaling(1e7))
    native.write(random_model(huge), tmp_path / "h.safetensors")
    arguments = ["encode", tmp_path / "h.safetensors", images, "-o", tmp_path / "z", "--scaled-latents"]
    assert "beyond what float16 holds; write float32" in call(*arguments, "--dtype", "float16", status=2).stderr
    call(*arguments)


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
