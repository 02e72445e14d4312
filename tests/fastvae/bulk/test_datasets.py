"""``bulk.encode``, ``reconstruct`` and ``score``: the verbs' bits for every row of a data set, in any cut."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import fastvae
from fastvae import bulk
from fastvae.bulk import ReadOptions
from fastvae.bulk.content import content_of
from fastvae.bulk.table import Block, Rows
from fastvae.errors import InputError, JobError, UnsupportedError
from fastvae.spec import Bernoulli, Condition, PointHead
from tests.fastvae.bulk.tables import IDS, N, columns_in, invariant, names, write_table
from tests.fastvae.support import mlp_spec, vae


def test_encode(tmp_path: Path, gaussian: fastvae.VAE, table: Path, rows: Rows) -> None:
    report = bulk.encode(gaussian, table, tmp_path / "out", reading=IDS, shard_size=77)
    found = columns_in(tmp_path / "out")
    posterior = invariant(gaussian).encode(rows)
    assert list(found) == ["index", "name", "number", "mean", "logvar"]
    np.testing.assert_array_equal(found["index"], np.arange(N))
    np.testing.assert_array_equal(found["number"], np.arange(N) * 10)
    assert found["name"].tolist() == [f"ré{row}" for row in range(N)]
    np.testing.assert_array_equal(found["mean"], posterior.mean)
    np.testing.assert_array_equal(found["logvar"], posterior.logvar)
    assert (report.n, report.shards, report.rejected) == (N, 4, 0)
    del found["index"]
    assert report.content == f"{content_of(Block(0, found)):016x}"
    schema = pq.read_schema(tmp_path / "out" / "shard-000000000.parquet")
    assert [str(field.type) for field in schema][:3] == ["int64", "string", "int64"]
    assert names(tmp_path / "out")[:3] == [".lock", "_SUCCESS", "input.jsonl"]
    assert bulk.encode(gaussian, str(table), tmp_path / "out", reading=IDS, shard_size=77) == report


@pytest.mark.parametrize("samples", [1, 3])
def test_draws_have_the_noise_of_their_index(
    tmp_path: Path, gaussian: fastvae.VAE, table: Path, rows: Rows, samples: int
) -> None:
    settings: dict[str, Any] = {"output": "sample", "samples": samples, "seed": 7, "reading": IDS}
    reports = [bulk.encode(gaussian, table, tmp_path / str(size), shard_size=size, **settings) for size in (50, 77)]
    draws = invariant(gaussian).encode(rows).sample(7, samples)
    expected = draws if samples == 1 else np.moveaxis(draws, 0, 1)
    np.testing.assert_array_equal(columns_in(tmp_path / "50")["sample"], expected)
    assert len({report.content for report in reports}) == 1
    assert bulk.verify(tmp_path / "77", gaussian, data=table).rows == 64


def test_the_mean_alone_is_that_of_embed(tmp_path: Path, gaussian: fastvae.VAE, rows: Rows) -> None:
    np.save(tmp_path / "x.npy", rows)
    bulk.encode(gaussian, tmp_path / "x.npy", tmp_path / "out", output="mean", format="npy", dtype="float16")
    expected = invariant(gaussian).embed(rows).astype(np.float16)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "shard-000000000.npy"), expected)


def test_reconstruct(tmp_path: Path, model: fastvae.VAE, rows: Rows) -> None:
    x = 1 / (1 + np.exp(-rows))
    np.save(tmp_path / "x.npy", x)
    bulk.reconstruct(model, tmp_path / "x.npy", tmp_path / "out", shard_size=128)
    expected = invariant(model).reconstruct(x)
    np.testing.assert_array_equal(columns_in(tmp_path / "out")["reconstruction"], expected)
    bulk.reconstruct(model, tmp_path / "x.npy", tmp_path / "bytes", dtype="uint8", format="npy")
    found = columns_in(tmp_path / "bytes")["reconstruction"]
    np.testing.assert_array_equal(found, np.rint(expected * np.float32(255)).astype(np.uint8))
    assert bulk.verify(tmp_path / "bytes", model, data=tmp_path / "x.npy").ok


def test_score(tmp_path: Path, gaussian: fastvae.VAE, table: Path, rows: Rows) -> None:
    settings: dict[str, Any] = {"samples": 2, "seed": 3, "beta": 0.5}
    metrics = ("elbo", "iwae", "mse", "kl")
    bulk.score(gaussian, table, tmp_path / "out", metric=metrics, reading=IDS, shard_size=77, **settings)
    found = columns_in(tmp_path / "out")
    for metric in metrics:
        np.testing.assert_array_equal(found[metric], invariant(gaussian).score(rows, metric, **settings))
        assert found[metric].shape == (N,)
    bulk.score(gaussian, table, tmp_path / "one", reading=IDS)
    np.testing.assert_array_equal(columns_in(tmp_path / "one")["reconstruction"], invariant(gaussian).score(rows))
    with pytest.raises(JobError, match=r"another job \(beta 0.5, not 1.0\)"):
        bulk.score(
            gaussian, table, tmp_path / "out", metric=metrics, reading=IDS, shard_size=77, **(settings | {"beta": 1})
        )


def test_text_is_looked_at(tmp_path: Path, gaussian: fastvae.VAE, table: Path, rows: Rows) -> None:
    write_table(table, rows[:20])
    bulk.score(gaussian, table, tmp_path / "out", reading=IDS)
    path = tmp_path / "out" / "shard-000000000.parquet"
    found = pq.read_table(path)
    names = found["name"].to_pylist()
    names[7] = "somebody"
    pq.write_table(found.set_column(1, found.schema.field("name"), [names]), path)
    manifest = tmp_path / "out" / "manifest.jsonl"
    line = json.loads(manifest.read_text())
    content = path.read_bytes()
    line["files"][0] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.write_text(json.dumps(line) + "\n")
    problems = bulk.verify(tmp_path / "out", gaussian, data=table, rows=N).problems
    assert problems == ("row 7: made again, it has other bits (name)",)


def test_the_checksum_covers_text() -> None:
    text = np.array(["a", "é", ""], dtype=object)
    whole = content_of(Block(0, {"name": text}))
    parts = [content_of(Block(0, {"name": text[:2]})), content_of(Block(2, {"name": text[2:]}))]
    assert sum(parts) % 2**64 == whole
    assert content_of(Block(0, {"name": np.array(["a", "e", ""], dtype=object)})) != whole


def test_conditions(tmp_path: Path, rows: Rows) -> None:
    model = vae(mlp_spec(condition=Condition(3)), device="cpu", impl="reference")
    np.save(tmp_path / "x.npy", rows)
    labels = np.arange(N) % 3
    for name, condition in {"each": labels, "all": 2}.items():
        bulk.score(model, tmp_path / "x.npy", tmp_path / name, condition=condition, shard_size=70)
        expected = invariant(model).score(rows, condition=condition)
        np.testing.assert_array_equal(columns_in(tmp_path / name)["reconstruction"], expected)
    assert bulk.verify(tmp_path / "each", model, condition=labels, data=tmp_path / "x.npy").ok
    with pytest.raises(InputError, match="condition: this model needs one"):
        bulk.encode(model, tmp_path / "x.npy", tmp_path / "none")


def test_workers_in_processes(tmp_path: Path, gaussian: fastvae.VAE, table: Path, rows: Rows) -> None:
    settings: dict[str, Any] = {"reading": IDS, "shard_size": 20, "invalid": "mask"}
    rows = rows.copy()
    rows[[5, 250], 2] = np.nan
    write_table(table, rows)
    report = bulk.encode(gaussian, table, tmp_path / "two", workers=2, **settings)
    assert report.content == bulk.encode(gaussian, table, tmp_path / "one", **settings).content
    assert [row.index for row in bulk.rejected(tmp_path / "two")] == [5, 250]


def test_a_point_has_no_variance(tmp_path: Path, rows: Rows) -> None:
    spec = mlp_spec()
    point = replace(spec, posterior=PointHead(spec.posterior.mean))  # type: ignore[union-attr]
    model = vae(point, device="cpu", impl="reference")
    np.save(tmp_path / "x.npy", rows)
    bulk.encode(model, tmp_path / "x.npy", tmp_path / "out")
    assert list(columns_in(tmp_path / "out")) == ["index", "mean"]
    with pytest.raises(UnsupportedError, match="metric 'elbo'"):
        bulk.score(model, tmp_path / "x.npy", tmp_path / "score", metric="elbo")


def test_jobs_of_a_table_a_second_time_in_other_ways(tmp_path: Path, gaussian: fastvae.VAE, table: Path) -> None:
    bulk.encode(gaussian, table, tmp_path / "out", reading=IDS, shard_size=100)
    for changed, message in [
        ({"output": "mean"}, "output mean, logvar, not mean"),
        ({"reading": replace(IDS, scale=2.0)}, r'reading .*, not .*"scale": 2.0'),
        ({"invalid": "mask"}, "invalid raise, not mask"),
    ]:
        with pytest.raises(JobError, match=message):
            bulk.encode(gaussian, table, tmp_path / "out", **({"reading": IDS, "shard_size": 100} | changed))  # type: ignore[arg-type]
    with pytest.raises(JobError, match="verb encode, not score"):
        bulk.score(gaussian, table, tmp_path / "out", reading=IDS, shard_size=100)
    with pytest.raises(InputError, match="data: a job of encode needs them"):
        bulk.verify(tmp_path / "out", gaussian)
    bulk.generate(gaussian, 10, tmp_path / "samples")
    with pytest.raises(InputError, match="data: a job of generate has none"):
        bulk.verify(tmp_path / "samples", gaussian, data=table)


@pytest.mark.parametrize("format", ["parquet", "parquet-bytes", "npy"])
def test_samples_of_a_job_are_data(tmp_path: Path, model: fastvae.VAE, format: Any) -> None:
    bulk.generate(model, 200, tmp_path / "samples", shard_size=60, format=format)
    bulk.score(model, tmp_path / "samples", tmp_path / "out", shard_size=70)
    expected = invariant(model).score(invariant(model).generate(200))
    np.testing.assert_array_equal(columns_in(tmp_path / "out")["reconstruction"], expected)
    bulk.generate(model, 200, tmp_path / "bytes", dtype="uint8", shard_size=60)
    bulk.encode(model, tmp_path / "bytes", tmp_path / "of_bytes", output="mean", reading=ReadOptions(scale=255))
    pixels = np.rint(invariant(model).generate(200) * np.float32(255)) / np.float32(255)
    np.testing.assert_array_equal(columns_in(tmp_path / "of_bytes")["mean"], invariant(model).embed(pixels))
    (tmp_path / "samples" / "_SUCCESS").unlink()
    with pytest.raises(InputError, match="the job in this folder is not done"):
        bulk.score(model, tmp_path / "samples", tmp_path / "again")


def test_nothing_to_do(tmp_path: Path, model: fastvae.VAE) -> None:
    np.save(tmp_path / "x.npy", np.empty((0, 6), np.float32))
    report = bulk.encode(model, tmp_path / "x.npy", tmp_path / "out", invalid="mask")
    assert (report.n, report.shards, report.rejected) == (0, 0, 0)
    assert bulk.verify(tmp_path / "out", model, data=tmp_path / "x.npy").ok


def test_pixels_in_tables_of_a_bernoulli_model(tmp_path: Path) -> None:
    model = vae(mlp_spec(likelihood=Bernoulli()), device="cpu", impl="reference")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 6), np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    with pytest.raises(InputError, match="expected floats, found integers; give scale=255"):
        bulk.encode(model, tmp_path / "x.npy", tmp_path / "out")
    bulk.encode(model, tmp_path / "x.npy", tmp_path / "out", reading=ReadOptions(scale=255), output="mean")
    expected = invariant(model).embed(pixels / np.float32(255))
    np.testing.assert_array_equal(columns_in(tmp_path / "out")["mean"], expected)
