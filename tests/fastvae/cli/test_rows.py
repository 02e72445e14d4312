"""``encode``, ``reconstruct``, ``impute`` and ``score``: a result for every row, whatever file it came in."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from numpy.typing import NDArray
from typer.testing import Result

import fastvae
from tests.fastvae.support import linear_gaussian

Call = Callable[..., Result]
NAMES = ["age", "b", "c", "d", "e", "f"]
INVARIANT = "--batch-invariant"

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture
def table(models: Path) -> fastvae.VAE:
    return fastvae.load(models / "table.safetensors", batch_invariant=True)


def _frame(rows: NDArray[np.float64]) -> pd.DataFrame:
    """Rows with whole numbers in the first column, and ids between the columns."""
    frame = pd.DataFrame(rows, columns=NAMES)
    frame["age"] = np.arange(len(rows)) + 20
    frame.insert(2, "name", [f"{i:03}" for i in range(len(rows))])
    return frame


def test_encode(tmp_path: Path, call: Call, digits: Path) -> None:
    posterior = fastvae.load("digits", batch_invariant=True).encode(np.load(digits))
    for suffix in (".npy", ".npz", ".parquet"):
        call("encode", "digits", digits, "-o", tmp_path / f"o{suffix}", INVARIANT)
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), posterior.mean)
    with np.load(tmp_path / "o.npz") as arrays:
        assert list(arrays) == ["mean", "logvar"]
        np.testing.assert_array_equal(arrays["logvar"], posterior.logvar)
    frame = pd.read_parquet(tmp_path / "o.parquet")
    assert list(frame) == [f"{name}_{i}" for name in ("mean", "logvar") for i in range(16)]
    np.testing.assert_array_equal(frame, np.hstack([posterior.mean, posterior.logvar]))


@pytest.mark.parametrize("draws", [1, 3])
def test_encode_draws(tmp_path: Path, call: Call, digits: Path, draws: int) -> None:
    options = ["--samples", draws, "--seed", 5, INVARIANT]
    call("encode", "digits", digits, *options, "-o", tmp_path / "o.npz")
    call("encode", "digits", digits, *options, "-o", tmp_path / "o.csv")
    posterior = fastvae.load("digits", batch_invariant=True).encode(np.load(digits))
    expected = posterior.sample(5, draws).reshape(draws, 30, 16)
    with np.load(tmp_path / "o.npz") as arrays:
        np.testing.assert_array_equal(arrays["samples"], expected)
    frame = pd.read_csv(tmp_path / "o.csv")
    np.testing.assert_array_equal(frame[f"sample_{draws - 1}_7"].to_numpy(np.float32), expected[-1, :, 7])


def test_reconstruct(tmp_path: Path, call: Call, digits: Path) -> None:
    rows = np.load(digits)
    np.save(tmp_path / "flat.npy", rows.reshape(30, 64))
    expected = fastvae.load("digits", batch_invariant=True).reconstruct(rows)
    call("reconstruct", "digits", digits, "-o", tmp_path / "o.npy", INVARIANT)
    call("reconstruct", "digits", tmp_path / "flat.npy", "-o", tmp_path / "flat_o.npy", INVARIANT)
    call("reconstruct", "digits", tmp_path / "flat.npy", "-o", tmp_path / "o.png", INVARIANT)
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "flat_o.npy"), expected.reshape(30, 64))
    picture = np.asarray(PIL.Image.open(tmp_path / "o.png"))
    assert picture.shape == (8 * 58 + 2, 8 * 58 + 2)
    above, below = picture[2:58:7, 2:58:7], picture[60:116:7, 2:58:7]
    np.testing.assert_array_equal(above, np.rint(rows[0, 0] * 255))
    np.testing.assert_array_equal(below, np.rint(expected[0, 0] * 255))


def test_reconstruct_keeps_the_table(tmp_path: Path, call: Call, models: Path, table: fastvae.VAE) -> None:
    frame = _frame(np.random.default_rng(0).standard_normal((9, 6)))
    frame.to_csv(tmp_path / "t.csv", index=False)
    options = ["--id-column", "name", "-o", tmp_path / "o.csv", INVARIANT]
    call("reconstruct", models / "table.safetensors", tmp_path / "t.csv", *options)
    found = pd.read_csv(tmp_path / "o.csv", dtype={"name": str})
    assert list(found) == list(frame)
    assert found["name"].tolist() == frame["name"].tolist()
    np.testing.assert_array_equal(found[NAMES].to_numpy(np.float32), table.reconstruct(frame[NAMES].to_numpy(float)))


@pytest.mark.parametrize(("metric", "samples"), [("elbo", None), ("iwae", 4), ("mse", 3)])
def test_score(tmp_path: Path, call: Call, digits: Path, metric: str, samples: int | None) -> None:
    options = ["--metric", metric, "--seed", 1, "--beta", 2, INVARIANT]
    options += [] if samples is None else ["--samples", samples]
    call("score", "digits", digits, *options, "-o", tmp_path / "o.csv")
    call("score", "digits", digits, *options, "-o", tmp_path / "o.npy")
    vae = fastvae.load("digits", batch_invariant=True)
    expected = vae.score(np.load(digits), metric, samples, 1, 2.0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), expected)
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "o.csv")[metric].to_numpy(np.float32), expected)


def test_score_summary(tmp_path: Path, call: Call) -> None:
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8)
    for i, image in enumerate(pixels):
        PIL.Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
    output = call("score", "digits", tmp_path / "images").output
    scores = fastvae.load("digits").score(pixels[:, None] / np.float32(255))
    words = output.replace("│", " ").split()
    assert words[words.index("count") + 1] == "9"
    assert float(words[words.index("max") + 1]) == pytest.approx(scores.max(), rel=1e-4)
    top = [word for word in words if word.endswith(".png")]
    assert top == [f"{i}.png" for i in np.argsort(-scores)[:5]]


@pytest.mark.parametrize(("metric", "samples"), [("iwae", 20), ("elbo", 3)])
def test_score_with_standard_errors(tmp_path: Path, call: Call, digits: Path, metric: str, samples: int) -> None:
    options = ["--metric", metric, "--seed", 1, "--samples", samples, "--standard-errors", INVARIANT]
    call("score", "digits", digits, *options, "-o", tmp_path / "o.npz")
    call("score", "digits", digits, *options, "-o", tmp_path / "o.csv")
    vae = fastvae.load("digits", batch_invariant=True)
    expected = vae.log_likelihood(np.load(digits), samples, 1, bound=metric)  # type: ignore[arg-type]
    arrays, table = np.load(tmp_path / "o.npz"), pd.read_csv(tmp_path / "o.csv")
    assert list(table) == ["row", metric, "standard_error", "effective_sample_size"][-len(table.columns) :]
    columns = (-expected.estimate, expected.standard_error, expected.effective_sample_size)
    for name, values in zip((metric, "standard_error", "effective_sample_size"), columns, strict=True):
        np.testing.assert_array_equal(arrays[name], values)
        np.testing.assert_array_equal(table[name].to_numpy(np.float32), values)
    output = call("score", "digits", digits, *options).output
    assert "standard error" in output
    assert "effective" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "mse"], "--standard-errors: for --metric iwae or elbo with --beta 1, got 'mse'"),
        (["--metric", "elbo", "--beta", "2"], "with --beta 1"),
        (["--metric", "iwae,elbo", "-o", "shards/"], "--standard-errors: for --metric iwae or elbo"),
        (["--metric", "iwae", "--samples", "1", "-o", "shards/"], "samples: expected an integer from 2"),
        (["--metric", "iwae", "-o", "errors.npy"], "npz"),
    ],
)
def test_scores_without_standard_errors(call: Call, digits: Path, options: list[str], message: str) -> None:
    assert message in call("score", "digits", digits, "--standard-errors", *options, status=2).output


def test_score_of_bad_rows(tmp_path: Path, call: Call, digits: Path) -> None:
    rows = np.load(digits)
    rows[9, 0, 3, 3] = np.nan
    np.save(tmp_path / "bad.npy", rows)
    assert "bad.npy: row 9 (the first is 0)" in call("score", "digits", tmp_path / "bad.npy", status=2).output
    call("score", "digits", tmp_path / "bad.npy", "--invalid", "mask", "-o", tmp_path / "o.npy")
    assert np.flatnonzero(np.isnan(np.load(tmp_path / "o.npy"))).tolist() == [9]
    assert "NaN" in call("score", "digits", tmp_path / "bad.npy", "--invalid", "mask").output


def test_no_rows(tmp_path: Path, call: Call) -> None:
    np.save(tmp_path / "none.npy", np.empty((0, 1, 8, 8), np.float32))
    assert "0" in call("score", "digits", tmp_path / "none.npy").output
    for command in ("score", "encode", "reconstruct", "impute"):
        call(command, "digits", tmp_path / "none.npy", "-o", tmp_path / f"{command}.csv")
        assert len(pd.read_csv(tmp_path / f"{command}.csv")) == 0


def test_impute_csv(tmp_path: Path, call: Call, models: Path, holes: NDArray[np.float64]) -> None:
    frame = _frame(holes)
    frame.to_csv(tmp_path / "t.csv", index=False)
    options = ["--id-column", "name", "--samples", 6, "-o", tmp_path / "o.csv"]
    result = call("impute", models / "table.safetensors", tmp_path / "t.csv", *options)
    missing = frame.isna()
    line = f"{int(missing.to_numpy().sum())} missing values filled; effective samples of 6 a row: median "
    assert line in result.output
    assert len(result.output.splitlines()) == 1
    assert "warning" not in result.output
    found = pd.read_csv(tmp_path / "o.csv", dtype={"name": str})
    assert list(found) == list(frame)
    assert found["age"].dtype == np.int64
    assert not found.isna().any(axis=None)
    pd.testing.assert_frame_equal(found.mask(missing), frame, check_exact=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_impute_equals_the_verb(
    tmp_path: Path, call: Call, models: Path, table: fastvae.VAE, holes: NDArray[np.float64], dtype: type
) -> None:
    rows = holes.astype(dtype)
    np.save(tmp_path / "t.npy", rows)
    pd.DataFrame(rows, columns=NAMES).to_parquet(tmp_path / "t.parquet")
    expected = table.impute(rows, samples=6, seed=2)
    for suffix in (".npy", ".parquet"):
        options = ["--samples", 6, "--seed", 2, "-o", tmp_path / f"o{suffix}", INVARIANT]
        call("impute", models / "table.safetensors", tmp_path / f"t{suffix}", *options)
    found = np.load(tmp_path / "o.npy")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found[~np.isnan(rows)], rows[~np.isnan(rows)])
    frame = pd.read_parquet(tmp_path / "o.parquet")
    assert (frame.dtypes == dtype).all()
    np.testing.assert_array_equal(frame, expected)


def test_impute_says_where_samples_are_too_few(tmp_path: Path, call: Call, holes: NDArray[np.float64]) -> None:
    linear_gaussian(features=6, latent_dim=2, s2=0.2).vae(shift=3.0, widen=0.6).save(tmp_path / "m.safetensors")
    np.save(tmp_path / "t.npy", holes)
    rows = r"1?\d of 1\d rows with missing entries"
    for method, line in {
        "importance": rf"effective samples of 40 a row: median \d, least 1; warning: {rows} rest on fewer than 4 ",
        "metropolis": rf"proposals accepted: median \d+%, least 0%; warning: {rows} accepted fewer than 2 of 20",
        "gibbs": r"missing values filled$",
    }.items():
        options = ["--method", method, "--samples", 40, "--rounds", 1, "--force", "-o", tmp_path / "o.npy"]
        (found,) = call("impute", tmp_path / "m.safetensors", tmp_path / "t.npy", *options).output.splitlines()
        assert re.search(line, found), found


def test_impute_what_a_mask_says_in_the_units_of_the_file(tmp_path: Path, call: Call, models: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (20, 6), dtype=np.uint8)
    mask = np.random.default_rng(1).random(rows.shape) < 0.3
    np.save(tmp_path / "t.npy", rows)
    np.save(tmp_path / "mask.npy", mask)
    options = ["--scale", 255, "--mask", tmp_path / "mask.npy", "--samples", 6, "-o", tmp_path / "o.npy"]
    call("impute", models / "table.safetensors", tmp_path / "t.npy", *options)
    found = np.load(tmp_path / "o.npy")
    np.testing.assert_array_equal(found[~mask], rows[~mask])
    assert (found[mask] != rows[mask]).mean() > 0.9
    assert np.abs(found[mask]).max() > 10
    np.save(tmp_path / "mask.npy", mask[1:])
    options.append("--force")
    assert "--mask" in call("impute", models / "table.safetensors", tmp_path / "t.npy", *options, status=2).output


def test_impute_several_times(
    tmp_path: Path, call: Call, models: Path, table: fastvae.VAE, holes: NDArray[np.float64]
) -> None:
    frame = _frame(holes)
    frame.to_csv(tmp_path / "t.csv", index=False)
    rows = frame[NAMES].to_numpy(float)
    np.save(tmp_path / "t.npy", rows)
    options = ["--n-imputations", 3, "--samples", 6, INVARIANT]
    call("impute", models / "table.safetensors", tmp_path / "t.npy", *options, "-o", tmp_path / "o.npy")
    expected = table.impute(rows, n_imputations=3, samples=6)
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), expected)
    options += ["--id-column", "name", "-o", tmp_path / "o.csv"]
    call("impute", models / "table.safetensors", tmp_path / "t.csv", *options)
    found = pd.read_csv(tmp_path / "o.csv", dtype={"name": str})
    assert list(found) == ["row", "imputation", *frame]
    assert found["row"].tolist() == np.repeat(np.arange(20), 3).tolist()
    assert found["name"].tolist() == frame["name"].repeat(3).tolist()
    for draw in range(3):
        part = found[found["imputation"] == draw]
        np.testing.assert_array_equal(part[NAMES].to_numpy(float), expected[draw])


def test_conditions_follow_their_rows(tmp_path: Path, call: Call, models: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    labels = np.arange(20) % 3
    np.save(tmp_path / "t.npy", rows)
    np.save(tmp_path / "labels.npy", labels)
    options = ["--condition", tmp_path / "labels.npy", "-o", tmp_path / "o.npy", INVARIANT]
    call("score", models / "labels.safetensors", tmp_path / "t.npy", *options)
    expected = fastvae.load(models / "labels.safetensors", batch_invariant=True).score(rows, condition=labels)
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), expected)


def test_encode_scaled_latents(tmp_path: Path, call: Call, digits: Path) -> None:
    scaling = fastvae.LatentScaling(2.0, 1.0)
    fastvae.load("digits", scaled_latents=scaling).save(tmp_path / "m.safetensors")
    call("encode", tmp_path / "m.safetensors", digits, "--scaled-latents", "-o", tmp_path / "o.npy")
    expected = fastvae.load("digits", scaled_latents=scaling).embed(np.load(digits))
    np.testing.assert_allclose(np.load(tmp_path / "o.npy"), expected, rtol=1e-5, atol=1e-5)
    result = call("encode", "digits", digits, "--scaled-latents", "-o", tmp_path / "p.npy", status=2)
    assert "does not say how to scale" in result.stderr
