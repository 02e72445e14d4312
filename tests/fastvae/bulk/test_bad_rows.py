"""Rows of a data set that cannot be used: they fail their shard by name, or are masked and listed once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import fastvae
from fastvae import bulk
from fastvae.bulk import ReadOptions
from fastvae.bulk.folder import Folder
from fastvae.bulk.progress import Progress
from fastvae.bulk.table import Rows
from fastvae.errors import IncompleteJobError, InputError, JobError
from fastvae.scaling import LatentScaling
from tests.fastvae.bulk.tables import IDS, N, columns_in, invariant, names, write_table
from tests.fastvae.support import vae
from tests.fastvae.test_sizes import SPEC


def broken_images(folder: Path) -> Rows:
    """Eleven pictures of 16x16 pixels, some in a folder below, one of them cut short; the rows of the others."""
    pixels = np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), dtype=np.uint8)
    (folder / "b").mkdir(parents=True)
    for i, picture in enumerate(pixels):
        PIL.Image.fromarray(picture).save(folder / (f"b/{i:02}.png" if i % 2 else f"a{i:02}.png"))
    (folder / "b/05.png").write_bytes((folder / "b/05.png").read_bytes()[:100])
    order = [*range(0, 11, 2), *range(1, 11, 2)]
    return pixels[order].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255) * 2 - 1


def test_images_by_their_relative_paths(tmp_path: Path) -> None:
    spec = replace(SPEC, pixel_range=(-1.0, 1.0), latent_scaling=LatentScaling(0.5))
    model = vae(spec, device="cpu", impl="reference", scaled_latents=True)
    x = broken_images(tmp_path / "images")
    reading = ReadOptions(recursive=True)
    out = tmp_path / "out"
    report = bulk.encode(model, tmp_path / "images", out, reading=reading, invalid="mask", shard_size=4)
    found = columns_in(out)
    expected = invariant(model).encode(x)
    good = np.arange(11) != 8
    assert found["file"].tolist() == [
        *(f"a{i:02}.png" for i in range(0, 11, 2)),
        *(f"b/{i:02}.png" for i in range(1, 11, 2)),
    ]
    np.testing.assert_array_equal(found["mean"][good], expected.mean[good])
    np.testing.assert_array_equal(found["logvar"][good], expected.logvar[good])
    assert np.isnan(found["mean"][8]).all()
    (row,) = bulk.rejected(out)
    assert (row.index, row.ids) == (8, {"file": "b/05.png"})
    assert "05.png: cannot be decoded" in row.reason
    assert report.rejected == 1
    assert names(out)[-6:-3] == [f"rejected-{k:09}.jsonl" for k in range(3)]
    assert bulk.verify(out, model, data=tmp_path / "images").ok
    other = vae(spec, device="cpu", impl="reference")
    with pytest.raises(JobError, match="scaled_latents"):
        bulk.verify(out, other, data=tmp_path / "images")
    bulk.encode(
        model, tmp_path / "images", tmp_path / "npy", output="mean", reading=reading, invalid="mask", format="npy"
    )
    sized = replace(reading, image_shape=(3, 8, 24), crop="center")
    (tmp_path / "images/b/05.png").unlink()
    bulk.reconstruct(model, tmp_path / "images", tmp_path / "sized", reading=sized)
    assert columns_in(tmp_path / "sized")["reconstruction"].shape == (10, 3, 8, 24)
    with pytest.raises(InputError, match=r"reading: image_shape=\(3, 7, 7\)"):
        bulk.encode(model, tmp_path / "images", tmp_path / "odd", reading=replace(sized, image_shape=(3, 7, 7)))


def test_bad_rows_fail_their_shard_and_are_named(
    tmp_path: Path, gaussian: fastvae.VAE, table: Path, rows: Rows
) -> None:
    rows = rows.copy()
    rows[123, 4] = np.inf
    write_table(table, rows)
    with pytest.raises(IncompleteJobError, match=r"1 of 6 shards failed.*row 123 .*name 'ré123', number 1230\): holds"):
        bulk.encode(gaussian, table, tmp_path / "out", reading=IDS, shard_size=50)
    assert len(Folder(tmp_path / "out").records(Folder(tmp_path / "out").job())) == 5


def test_masked_rows_are_listed_once_whatever_happens(
    tmp_path: Path, model: fastvae.VAE, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = 1 / (1 + np.exp(-rows))
    x[3, 0], x[99, 5], x[100, 1] = np.nan, 1.5, -0.25
    np.save(tmp_path / "x.npy", x)
    settings: dict[str, Any] = {"invalid": "mask", "shard_size": 100, "metric": ["elbo", "mse"]}
    whole = bulk.score(model, tmp_path / "x.npy", tmp_path / "whole", **settings)
    out = tmp_path / "out"

    def interrupt(state: Progress) -> None:
        if state.shards == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bulk.score(model, tmp_path / "x.npy", out, watch=interrupt, **settings)
    for name in names(out):  # files of shards without a line, and what was half written
        if name.startswith("manifest"):
            (out / name).write_bytes(b"")
    report = bulk.score(model, tmp_path / "x.npy", out, **settings)
    assert (report.content, report.rejected) == (whole.content, 3)
    listed = list(bulk.rejected(out))
    assert [row.index for row in listed] == [3, 99, 100]
    assert [row.reason.partition(",")[0] for row in listed] == [
        "holds NaN or Inf",
        *2 * ["this model's data lie in [0"],
    ]
    assert "scale=255" in listed[1].reason
    assert "scale=255" not in listed[2].reason
    good = np.isfinite(x).all(1) & (x >= 0).all(1) & (x <= 1).all(1)
    found = columns_in(out)["elbo"]
    assert np.isnan(found[~good]).all()
    np.testing.assert_array_equal(found[good], invariant(model).score(x[good], "elbo"))
    assert bulk.verify(out, model, data=tmp_path / "x.npy", rows=N).rows == N
    path = out / "rejected-000000000.jsonl"
    text = path.read_text()
    path.write_text(text.replace("99", "98"))
    assert "rejected-000000000.jsonl has another SHA-256" in bulk.verify(out).problems[0]
    path.write_text("{}" + text[2:])
    with pytest.raises(JobError, match=r"rejected-000000000.jsonl is damaged"):
        list(bulk.rejected(out))
