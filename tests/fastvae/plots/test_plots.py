"""Plots show what they are given: pixels, labels, counts."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastvae import plots
from fastvae.errors import InputError, OutputError, UnsupportedError
from fastvae.plots import Look

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.random((5, 1, 4, 3), np.float32)
TABLE = GENERATOR.standard_normal((5, 4)) * [1, 100, 0.01, 1] + [0, 500, 3, 0]
TABLE[:, 3] = 7


def picture(figure: Any, panel: int = 0) -> Any:
    """The pixels that a panel shows, NaN where it is empty."""
    return np.ma.filled(figure.axes[panel].images[0].get_array().astype(float), np.nan)


def ticks(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_grid_of_images_has_each_in_its_place() -> None:
    figure = plots.grid(IMAGES, columns=2)
    assert len(figure.axes) == 1
    shown = picture(figure)
    assert shown.shape == (3 * 5 - 1, 2 * 4 - 1)
    for index, image in enumerate(IMAGES[:, 0]):
        top, left = index // 2 * 5, index % 2 * 4
        np.testing.assert_array_equal(shown[top : top + 4, left : left + 3], image)
    assert np.isnan(shown[4]).all()  # the gap
    assert np.isnan(shown[10:, 4:]).all()  # the place that is left over


def test_flat_rows_colours_and_other_ranges_are_images_too() -> None:
    shown = picture(plots.grid(IMAGES.reshape(5, 12), look=Look(image_shape=(4, 3))))
    np.testing.assert_array_equal(shown, picture(plots.grid(IMAGES)))
    rgb = GENERATOR.random((2, 3, 4, 4)) * 2 - 1
    shown = picture(plots.grid(rgb, columns=2, look=Look(pixel_range=(-1, 1))))
    np.testing.assert_allclose(shown[:, 5:], (rgb[1].transpose(1, 2, 0) + 1) / 2)
    assert np.nanmax(picture(plots.grid(IMAGES + 0.5))) == 1


def test_grid_of_a_table_is_a_standardised_heat_map() -> None:
    figure = plots.grid(TABLE, look=Look(names=("a", "b", "c", "d")))
    expected = (TABLE - TABLE.mean(0)) / np.where(TABLE.std(0) > 0, TABLE.std(0), 1)
    np.testing.assert_allclose(picture(figure), expected)
    assert len(figure.axes) == 2
    assert figure.axes[1].get_ylabel() == "standard deviations"
    assert ticks(figure.axes[0].xaxis) == ["a", "b", "c", "d"]


def test_reconstructions_stand_below_originals() -> None:
    figure = plots.reconstructions(IMAGES, 1 - IMAGES, columns=3)
    shown = picture(figure)
    assert shown.shape == (4 * 5 - 1, 3 * 4 - 1)
    np.testing.assert_array_equal(shown[0:4, 8:11], IMAGES[2, 0])
    np.testing.assert_array_equal(shown[5:9, 8:11], 1 - IMAGES[2, 0])
    np.testing.assert_array_equal(shown[15:19, 0:3], 1 - IMAGES[3, 0])
    assert ticks(figure.axes[0].yaxis) == ["originals", "reconstructions"] * 2
    tables = plots.reconstructions(TABLE, TABLE + TABLE.std(0))
    np.testing.assert_allclose(picture(tables, 1)[:, :3] - picture(tables, 0)[:, :3], 1)
    assert [axes.get_ylabel() for axes in tables.axes[:2]] == ["originals", "reconstructions"]


def test_traversal_has_a_line_for_each_dimension() -> None:
    decoded = GENERATOR.random((2, 3, 1, 4, 4))
    figure = plots.traversal(decoded, ["z1", "z5"], [-2, 0, 2])
    np.testing.assert_array_equal(picture(figure)[5:, 10:], decoded[1, 2, 0])
    assert ticks(figure.axes[0].yaxis) == ["z1", "z5"]
    assert ticks(figure.axes[0].xaxis) == ["-2", "0", "2"]
    tables = plots.traversal(decoded.reshape(2, 3, 16), ["z1", "z5"], [-2, 0, 2])
    assert [axes.get_ylabel() for axes in tables.axes[:2]] == ["z1", "z5"]
    rows = decoded.reshape(6, 16)
    np.testing.assert_allclose(picture(tables, 1), ((rows - rows.mean(0)) / rows.std(0))[3:])


def test_embedding_by_dimensions_and_classes() -> None:
    z = GENERATOR.standard_normal((30, 3))
    labels = np.array(["b", "a", "c"] * 10)
    figure = plots.embedding(z, labels, dims=(2, 0))
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z2", "z0")
    assert [points.get_label() for points in axes.collections] == ["a", "b", "c"]
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), z[1::3][:, [2, 0]])
    assert len({tuple(points.get_facecolor()[0]) for points in axes.collections}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]
    objects = plots.embedding(z, labels.astype(object), dims=(2, 0))
    assert [points.get_label() for points in objects.axes[0].collections] == ["a", "b", "c"]


def test_embedding_by_principal_components() -> None:
    z = GENERATOR.standard_normal((200, 3)) * [1, 5, 0.1]
    figure = plots.embedding(z, np.arange(200))
    axes, colours = figure.axes
    x, y = axes.collections[0].get_offsets().T
    assert abs(np.corrcoef(x, z[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(y, z[:, 0])[0, 1]) > 0.98
    share = x.var() / z.var(0).sum()
    assert axes.get_xlabel() == f"PC 1 ({share:.0%})"
    np.testing.assert_array_equal(axes.collections[0].get_array(), np.arange(200))
    assert colours.get_ylabel() == "label"
    assert len(plots.embedding(z).axes) == 1


def test_scores_share_their_bins() -> None:
    known, new = GENERATOR.normal(0, 1, 300), np.append(GENERATOR.normal(4, 1, 99), np.nan)
    figure = plots.scores({"known": known, "new": new}, "elbo", bins=20)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "elbo"
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["known, 300 rows", "new, 99 rows, 1 without a score"]
    heights = np.array([[bar.get_height() for bar in bars] for bars in axes.containers])
    assert heights.shape == (2, 20)
    np.testing.assert_allclose(heights.sum(1), 1)
    edges = np.histogram_bin_edges(np.append(known, new[:-1]), 20)
    np.testing.assert_allclose(heights[0] * 300, np.histogram(known, edges)[0])


def test_files_are_equal_for_equal_figures_and_whole_or_absent(tmp_path: Path) -> None:
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
        for path in (one, two):
            plots.save(plots.grid(IMAGES), path, dpi=30)
        assert one.read_bytes().startswith(start)
        assert one.read_bytes() == two.read_bytes()
    figure = plots.grid(IMAGES)
    with pytest.raises(InputError, match=r"expected a name ending in \.png, \.svg, \.pdf"):
        plots.save(figure, tmp_path / "o.jpg")
    with pytest.raises(InputError, match="dpi: expected an integer from 10"):
        plots.save(figure, tmp_path / "o.png", dpi=0)
    with pytest.raises(OutputError, match="cannot write"):
        plots.save(figure, tmp_path / "nowhere" / "o.png", dpi=30)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.grid(IMAGES[:0]), "samples: expected a NumPy array of floats"),
        (lambda: plots.grid([[0.0]]), "samples: expected a NumPy array of floats"),  # type: ignore[arg-type]
        (lambda: plots.grid(np.zeros((2, 784))), r"784 features are too many .*--image 28x28"),
        (lambda: plots.grid(np.zeros((2, 2, 4, 4))), r"rows of shape \(2, 4, 4\) are neither grey nor RGB images"),
        (lambda: plots.grid(IMAGES, look=Look(image_shape=(5, 5))), "has not the 12 numbers of a row"),
        (lambda: plots.grid(IMAGES, columns=0), "columns: expected an integer from 1"),
        (lambda: plots.grid(TABLE, look=Look(names=("a",))), "names: expected one for each of 4 features, got 1"),
        (lambda: plots.reconstructions(IMAGES, IMAGES[:2]), "reconstructed: expected the shape of originals"),
        (lambda: plots.traversal(IMAGES, ["a"], [0]), "labels, scores: expected 5 and 1, got 1 and 1"),
        (lambda: plots.traversal(TABLE, ["a"], [0]), r"decoded: expected a NumPy array \(dims, steps"),
        (lambda: plots.embedding(TABLE[:, :1]), "at least 2 dimensions"),
        (lambda: plots.embedding(TABLE[0]), "latents: expected a NumPy array of floats"),
        (lambda: plots.embedding(TABLE, np.arange(3)), r"labels: expected one for each of 5 rows, got shape \(3,\)"),
        (lambda: plots.embedding(TABLE, dims=(0, 4)), "dims: expected an integer from 0 to 3, got 4"),
        (lambda: plots.embedding(TABLE, dims=(0,)), "dims: expected two dimensions, got 1"),
        (
            lambda: plots.embedding(np.zeros((30, 2)), np.arange(30).astype(str)),
            "labels: expected at most 20 different texts, got 30; use numbers",
        ),
        (lambda: plots.scores({}), "values: expected scores of at least one data set"),
        (lambda: plots.scores({"a": np.array([np.nan])}), "values: 'a' has no finite score"),
        (lambda: plots.scores({"a": IMAGES}, bins=0), "bins: expected an integer from 1"),
    ],
)
def test_mistakes(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError, match=r'matplotlib: pip install "fastvae-engine\[plot\]"'):
        plots.grid(IMAGES)


@pytest.mark.parametrize("path", sorted(Path(plots.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_matplotlib_is_imported_where_it_draws_and_pyplot_never(path: Path) -> None:
    source = path.read_text()
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("matplotlib" in ast.unparse(node) for node in imports)
    assert not re.search(r"import.*pyplot|pyplot\.", source)
