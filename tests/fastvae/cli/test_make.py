"""``generate`` and ``interpolate``: files hold what the verbs return."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from typer.testing import Result

import fastvae
from fastvae.files import open_source

Call = Callable[..., Result]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet"])
def test_generate_writes_what_the_verb_returns(tmp_path: Path, call: Call, suffix: str) -> None:
    out = tmp_path / f"o{suffix}"
    result = call("generate", "digits", "-n", 70, "--seed", 3, "--batch-size", 32, "--out", out)
    assert result.output == f"{out}: 70 samples\n"
    expected = fastvae.load("digits", batch_invariant=True).generate(70, seed=3)
    source = open_source(out)
    np.testing.assert_array_equal(source.block(0, 70).astype(np.float32).reshape(70, 1, 8, 8), expected)


def test_generate_any_part_again(tmp_path: Path, call: Call) -> None:
    call("generate", "digits", "-n", 50, "-o", tmp_path / "all.npy", "--output", "sample")
    call("generate", "digits", "-n", 5, "--start", 40, "-o", tmp_path / "part.npy", "--output", "sample")
    np.testing.assert_array_equal(np.load(tmp_path / "all.npy")[40:45], np.load(tmp_path / "part.npy"))
    call("generate", "digits", "-n", 5, "-o", tmp_path / "bytes.npy", "--output", "uint8")
    pixels = fastvae.load("digits", batch_invariant=True).generate(5, output="uint8")
    np.testing.assert_array_equal(np.load(tmp_path / "bytes.npy"), pixels)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet"])
def test_generate_nothing(tmp_path: Path, call: Call, suffix: str) -> None:
    call("generate", "digits", "-n", 0, "-o", tmp_path / f"o{suffix}")
    assert len(open_source(tmp_path / f"o{suffix}")) == 0


def test_generate_a_picture(tmp_path: Path, call: Call, models: Path) -> None:
    call("generate", "digits", "-n", 10, "-o", tmp_path / "o.png")
    picture = PIL.Image.open(tmp_path / "o.png")
    assert (picture.mode, picture.size) == ("L", (4 * 58 + 2, 3 * 58 + 2))
    call("generate", models / "rgb.safetensors", "-n", 4, "-o", tmp_path / "rgb.png")
    picture = PIL.Image.open(tmp_path / "rgb.png")
    assert (picture.mode, picture.size) == ("RGB", (2 * 58 + 2, 2 * 58 + 2))


def test_generate_with_conditions(tmp_path: Path, call: Call, models: Path) -> None:
    labels = np.array([0, 2, 1, 2])
    np.save(tmp_path / "labels.npy", labels)
    pd.DataFrame({"label": labels}).to_csv(tmp_path / "labels.csv", index=False)
    np.save(tmp_path / "vectors.npy", np.eye(3, dtype=np.float32)[labels])
    vae = fastvae.load(models / "labels.safetensors", batch_invariant=True)
    expected = vae.generate(4, condition=labels)
    for name in ("labels.npy", "labels.csv", "vectors.npy"):
        options = ["--condition", tmp_path / name, "-o", tmp_path / "o.npy", "--force"]
        call("generate", models / "labels.safetensors", "-n", 4, *options)
        np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), expected)
    call("generate", models / "labels.safetensors", "-n", 4, "--condition", 2, "-o", tmp_path / "two.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "two.npy"), vae.generate(4, condition=2))


@pytest.mark.parametrize(
    ("rows", "message"),
    [(np.arange(3), "3 rows, expected one per sample, 4"), (np.ones(4), "integer labels or 3 numbers a row")],
)
def test_generate_with_conditions_that_do_not_fit(
    tmp_path: Path, call: Call, models: Path, rows: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "labels.npy", rows)
    options = ["--condition", tmp_path / "labels.npy", "-o", tmp_path / "o.npy"]
    assert message in call("generate", models / "labels.safetensors", "-n", 4, *options, status=2).output


def test_interpolate(tmp_path: Path, call: Call, digits: Path) -> None:
    rows = np.load(digits)
    expected = fastvae.load("digits").interpolate(rows[[0, 3]], rows[[7, 8]], 5)
    pairs = ["--from", 0, "--to", 7, "--from", 3, "--to", 8, "--steps", 5]
    for suffix in (".npy", ".csv", ".png"):
        call("interpolate", "digits", digits, *pairs, "-o", tmp_path / f"o{suffix}")
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), expected)
    call("interpolate", "digits", digits, *pairs, "--path", "spherical", "-o", tmp_path / "arc.npy")
    arc = fastvae.load("digits").interpolate(rows[[0, 3]], rows[[7, 8]], 5, path="spherical")
    np.testing.assert_array_equal(np.load(tmp_path / "arc.npy"), arc)
    frame = pd.read_csv(tmp_path / "o.csv")
    assert frame["pair"].tolist() == [0] * 5 + [1] * 5
    assert frame["step"].tolist() == [0, 1, 2, 3, 4] * 2
    np.testing.assert_array_equal(frame.to_numpy(np.float32)[:, 2:], expected.reshape(10, 64))
    assert PIL.Image.open(tmp_path / "o.png").size == (5 * 58 + 2, 2 * 58 + 2)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["--from", 0, "--to", 30], "--to: expected a row of"),
        (["--from", 0, "--to", 1, "--to", 2], "expected as many of each, got 1 and 2"),
        (["--from", 0, "--to", 1, "--steps", 1], "steps"),
    ],
)
def test_interpolate_refuses(tmp_path: Path, call: Call, digits: Path, pairs: list[object], message: str) -> None:
    assert message in call("interpolate", "digits", digits, *pairs, "-o", tmp_path / "o.png", status=2).output
    assert not (tmp_path / "o.png").exists()
