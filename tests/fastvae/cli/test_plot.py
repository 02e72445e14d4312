"""``plot`` and ``diagnose``: pictures and tables of what the verbs return."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from typer.testing import Result

import fastvae
from fastvae import plots
from fastvae.formats import native
from fastvae.layers import Affine, Linear
from fastvae.model import Model
from fastvae.representation import diagnose, traverse
from fastvae.spec import ModelSpec, PerDimensionGaussian, PointHead
from tests.fastvae.support import random_model

Call = Callable[..., Result]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that commands would have written."""
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, path, *, dpi: figures.append(figure))
    return figures


def pixels(figure: Any, panel: int = 0) -> Any:
    return np.ma.filled(figure.axes[panel].images[0].get_array().astype(float), np.nan)


def texts(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_a_picture_is_written(tmp_path: Path, call: Call) -> None:
    out = tmp_path / "o.png"
    arguments = ["plot", "grid", "digits", "--rows", 2, "--columns", 3, "--dpi", 50, "-o", out]
    assert call(*arguments).output == f"{out}: 6 samples\n"
    assert PIL.Image.open(out).size == (105, 70)  # 0.7 inches an image
    assert "exists; pass --force" in call(*arguments, status=2).output
    call(*arguments, "--force")


def test_grid(call: Call, drawn: list[Any], models: Path) -> None:
    options = ["--rows", 2, "--columns", 3, "--seed", 5, "--start", 7, "--output", "sample"]
    call("plot", "grid", "digits", *options, "-o", "o.png")
    samples = fastvae.load("digits", batch_invariant=True).generate(6, 5, 7, "sample")
    np.testing.assert_array_equal(pixels(drawn[0]), pixels(plots.grid(samples, columns=3)))
    call("plot", "grid", models / "labels.safetensors", "--rows", 1, "--condition", 2, "--image", "2x3", "-o", "o.png")
    samples = fastvae.load(models / "labels.safetensors", batch_invariant=True).generate(8, condition=2)
    np.testing.assert_array_equal(pixels(drawn[1])[:, :3], samples[0].reshape(2, 3).clip(0, 1))


def test_reconstructions(tmp_path: Path, call: Call, drawn: list[Any], digits: Path, models: Path) -> None:
    call("plot", "reconstructions", "digits", digits, "--rows", 2, "--columns", 4, "-o", "o.png")
    rows = np.load(digits)[:8]
    expected = plots.reconstructions(rows, fastvae.load("digits").reconstruct(rows), columns=4)
    np.testing.assert_allclose(pixels(drawn[0]), pixels(expected), atol=1e-6)
    frame = pd.DataFrame(np.random.default_rng(0).standard_normal((3, 6)), columns=list("abcdef"))
    frame.to_csv(tmp_path / "t.csv", index=False)
    call("plot", "reconstructions", models / "table.safetensors", tmp_path / "t.csv", "-o", "o.png")
    assert pixels(drawn[1]).shape == (3, 6)
    assert texts(drawn[1].axes[1].xaxis) == list("abcdef")


def test_traversal(call: Call, drawn: list[Any], digits: Path) -> None:
    vae, rows = fastvae.load("digits"), np.load(digits)
    found = diagnose(vae, rows, mi_rows=0)
    call("plot", "traversal", "digits", digits, "--dims", 3, "--steps", 5, "-o", "o.png")
    best = found.order[:3].tolist()
    assert texts(drawn[0].axes[0].yaxis) == [f"z{dim}, KL {found.kl[dim]:.2f}" for dim in best]
    expected = plots.traversal(traverse(vae, dims=best, steps=5)[0], ["", "", ""], range(5))
    np.testing.assert_allclose(pixels(drawn[0]), pixels(expected), atol=1e-6)
    options = ["--dim", 3, "--dim", 8, "--row", 4, "--unit", "posterior", "--low", -1, "--high", 2]
    call("plot", "traversal", "digits", digits, *options, "-o", "o.png")
    dims = [dim for dim in found.order.tolist() if dim in (3, 8)]
    decoded = traverse(vae, rows[4:5], dims, 9, low=-1, high=2, unit="posterior")[0]
    np.testing.assert_allclose(pixels(drawn[1]), pixels(plots.traversal(decoded, ["", ""], range(9))), atol=1e-6)


def test_embedding(tmp_path: Path, call: Call, drawn: list[Any], digits: Path, models: Path) -> None:
    np.save(tmp_path / "labels.npy", np.arange(30) % 3)
    call("plot", "embedding", "digits", digits, "--labels", tmp_path / "labels.npy", "--by", "active", "-o", "o.png")
    vae = fastvae.load("digits")
    z, best = vae.embed(np.load(digits)), diagnose(vae, np.load(digits), mi_rows=0).order[:2]
    axes = drawn[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == tuple(f"z{dim}" for dim in best)
    np.testing.assert_allclose(axes.collections[1].get_offsets(), z[1::3][:, best], atol=1e-6)
    frame = pd.DataFrame(np.random.default_rng(0).standard_normal((4, 6))).assign(kind=["x", "y", "x", "y"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    call("plot", "embedding", models / "table.safetensors", tmp_path / "t.csv", "--labels", "kind", "-o", "o.png")
    assert [points.get_label() for points in drawn[1].axes[0].collections] == ["x", "y"]
    assert drawn[1].axes[0].get_xlabel().startswith("PC 1 (")


def test_scores(tmp_path: Path, call: Call, drawn: list[Any], digits: Path) -> None:
    np.save(tmp_path / "new.npy", np.load(digits)[:10] ** 3)
    against = ["--against", tmp_path / "new.npy", "--metric", "elbo", "--bins", 8]
    call("plot", "scores", "digits", digits, *against, "-o", "o.png")
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["digits.npy, 30 rows", "new.npy, 10 rows"]
    vae = fastvae.load("digits")
    values = [vae.score(np.load(path), "elbo") for path in (digits, tmp_path / "new.npy")]
    edges = np.histogram_bin_edges(np.concatenate(values).astype(float), 8)
    for bars, expected in zip(axes.containers, values, strict=True):
        heights = [bar.get_height() for bar in bars]
        np.testing.assert_allclose(heights, np.histogram(expected, edges)[0] / len(expected), atol=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_sampled_scores_do_not_depend_on_blocks(call: Call, drawn: list[Any], digits: Path) -> None:
    call("plot", "scores", "digits", digits, "--metric", "iwae", "--samples", 2, "--seed", 4, "-o", "o.png")
    expected = plots.scores({"": fastvae.load("digits").score(np.load(digits), "iwae", 2, 4)})
    heights = [[bar.get_height() for bar in figure.axes[0].containers[0]] for figure in (drawn[0], expected)]
    np.testing.assert_allclose(heights[0], heights[1])


def test_the_condition_of_a_row_goes_with_it(tmp_path: Path, call: Call, drawn: list[Any], models: Path) -> None:
    path, rows, labels = models / "labels.safetensors", np.random.default_rng(0).random((3, 6)), np.array([2, 0, 1])
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "labels.npy", labels)
    options = ["--condition", tmp_path / "labels.npy", "--row", 1, "--dim", 0, "-o", "o.png"]
    call("plot", "traversal", path, tmp_path / "x.npy", *options)
    decoded = traverse(fastvae.load(path), rows[1:2], [0], 9, condition=0)[0]
    np.testing.assert_allclose(pixels(drawn[0]), pixels(plots.traversal(decoded, [""], range(9))), atol=1e-5)


def test_a_deterministic_encoder_is_ranked_by_variance(tmp_path: Path, call: Call, drawn: list[Any]) -> None:
    spec = ModelSpec((3,), (3,), (), PointHead((Affine("m", (3,)),)), (Linear("d", 3, 3),), PerDimensionGaussian())
    weights = dict(random_model(spec).weights)
    weights["m.scale"], weights["m.shift"] = torch.tensor([1.0, 9.0, 2.0]), torch.zeros(3)
    native.write(Model(spec, weights), tmp_path / "m.safetensors")
    np.save(tmp_path / "x.npy", np.eye(3))
    call("plot", "traversal", tmp_path / "m.safetensors", tmp_path / "x.npy", "--dims", 2, "-o", "o.png")
    labels = [axes.get_ylabel() for axes in drawn[0].axes[:2]]
    assert labels == ["z1, variance 18.00", "z2, variance 0.89"]
    output = call("diagnose", tmp_path / "m.safetensors", tmp_path / "x.npy", status=2).output
    assert "encoder is deterministic" in output


def test_diagnose(call: Call, digits: Path) -> None:
    expected = diagnose(fastvae.load("digits"), np.load(digits), mi_rows=20, seed=3, threshold=0.02)
    options = ["--mi-rows", 20, "--seed", 3, "--threshold", 0.02]
    assert call("diagnose", "digits", digits, *options).output == f"{expected}\n"
    found = json.loads(call("diagnose", "digits", digits, *options, "--json").output)
    assert found["active_units"] == expected.active.sum()
    assert found["rate"] == pytest.approx(expected.rate)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("plot grid digits -o o.jpg", "expected a name ending in .png, .svg, .pdf"),
        ("plot grid digits --rows 65 -o o.png", "--rows: expected an integer from 1 to 64, got 65"),
        ("plot grid digits --image 8 -o o.png", "--image: expected HEIGHTxWIDTH or CHANNELSxHEIGHTxWIDTH, got '8'"),
        ("plot grid digits --image 8x9 -o o.png", "has not the 64 numbers of a row"),
        ("plot grid digits --dpi 5 -o o.png", "dpi: expected an integer from 10"),
        ("plot reconstructions digits empty.npy -o o.png", "empty.npy: there are no rows to draw"),
        ("plot reconstructions digits holes.npy -o o.png", "holes.npy: row 1 (the first is 0) holds NaN or Inf"),
        (
            "plot scores digits holes.npy -o o.png",
            "row 1 (the first is 0) holds NaN or Inf; fill it with fastvae impute",
        ),
        (
            "diagnose digits holes.npy",
            "holes.npy: row 1 (the first is 0) holds NaN or Inf; fill it with fastvae impute",
        ),
        ("plot traversal digits digits.npy --row 30 -o o.png", "--row: expected a row of digits.npy, 0 to 29, got 30"),
        ("plot traversal digits digits.npy --dim 16 -o o.png", "--dim: expected latent dimensions from 0 to 15"),
        ("plot traversal LABELS table.npy --condition labels.npy -o o.png", "say with --row which to start from"),
        ("plot embedding digits digits.npy --by kl -o o.png", "--by: expected active or pca, got 'kl'"),
        (
            "plot embedding digits digits.npy --labels kind -o o.png",
            "--labels: there is no file 'kind', and only tables",
        ),
        ("plot embedding digits digits.npy --labels empty.npy -o o.png", "--labels: expected one for each of 30 rows"),
        ("plot scores digits digits.npy --metric nll -o o.png", "metric"),
        ("diagnose digits digits.npy --mi-rows -1", "mi_rows: expected an integer from 0"),
        ("diagnose digits empty.npy", "mean: expected at least 2 rows, got 0"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    call: Call,
    digits: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.load(digits)
    np.save("empty.npy", rows[:0])
    rows[1, 0, 2, 3] = np.nan
    np.save("holes.npy", rows)
    np.save("table.npy", np.zeros((3, 6)))
    np.save("labels.npy", np.arange(3))
    output = call(*arguments.replace("LABELS", str(models / "labels.safetensors")).split(), status=2).output
    assert message in output
    assert len(output.splitlines()) == 1
    assert not (tmp_path / "o.png").exists()
