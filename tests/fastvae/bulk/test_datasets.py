"""``bulk.encode``, ``reconstruct`` and ``score``: the verbs' bits for every row of a data set, in any cut."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fastvae
from fastvae import bulk
from fastvae.bulk import ReadOptions
from fastvae.bulk.content import content_of
from fastvae.bulk.folder import Folder
from fastvae.bulk.progress import Progress
from fastvae.bulk.shards import FORMATS
from fastvae.bulk.table import Block, Rows
from fastvae.errors import IncompleteJobError, InputError, JobError, UnsupportedError
from fastvae.scaling import LatentScaling
from fastvae.spec import Bernoulli, Condition, PointHead
from tests.fastvae.support import mlp_spec, vae
from tests.fastvae.test_sizes import SPEC

N = 300
IDS = ReadOptions(id_columns=("name", "number"))


@pytest.fixture(scope="session")
def rows() -> Rows:
    return np.random.default_rng(0).standard_normal((N, 6)).astype(np.float32)


@pytest.fixture
def table(tmp_path: Path, rows: Rows) -> Path:
    """A Parquet file of these rows in small row groups, with a column of text and one of integers."""
    path = tmp_path / "table.parquet"
    write_table(path, rows)
    return path


def write_table(path: Path, rows: Rows) -> None:
    numbers = np.arange(len(rows)) * 10
    ids = {"name": [f"r\N{LATIN SMALL LETTER E WITH ACUTE}{row}" for row in range(len(rows))], "number": numbers}
    columns = {f"x{i}": rows[:, i] for i in range(rows.shape[1])}
    pq.write_table(pa.table(ids | columns), path, row_group_size=37)


def columns_in(out: Path) -> dict[str, Rows]:
    """The columns of all shards, and their indices."""
    job = Folder(out).job()
    parts = [FORMATS[job.format].read(job, k, out, range(np.diff(job.bounds(k))[0])) for k in range(job.shards)]
    columns = {name: np.concatenate([found[name] for _, found in parts]) for name in parts[0][1]}
    return {"index": np.concatenate([index for index, _ in parts])} | columns


def invariant(model: fastvae.VAE) -> fastvae.VAE:
    return fastvae.VAE(model._engine.model, replace(model._engine.settings, batch_invariant=True))


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


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


def test_an_input_that_changed_is_refused(tmp_path: Path, gaussian: fastvae.VAE, rows: Rows) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for part in range(3):
        np.save(data / f"{part}.npy", rows[part * 100 :][:100])
    out = tmp_path / "out"
    report = bulk.encode(gaussian, data, out, shard_size=90)

    def refused(match: str) -> None:
        with pytest.raises(JobError, match=match):
            bulk.encode(gaussian, data, out, shard_size=90)
        with pytest.raises(JobError, match=match):
            bulk.verify(out, gaussian, data=data)

    status = (data / "1.npy").stat()
    changed = bytearray((data / "1.npy").read_bytes())
    changed[-1] ^= 1
    (data / "1.npy").write_bytes(changed)
    os.utime(data / "1.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
    refused(r"data are not those that the job began with \(1.npy has changed\)")
    changed[-1] ^= 1
    (data / "1.npy").write_bytes(changed)
    assert bulk.encode(gaussian, data, out, shard_size=90) == report
    np.save(data / "3.npy", rows[:5])
    refused(r"\(3.npy is new\)")
    (data / "3.npy").unlink()
    (data / "2.npy").rename(tmp_path / "2.npy")
    refused(r"\(2.npy is missing\)")
    (tmp_path / "2.npy").rename(data / "2.npy")
    (out / "input.jsonl").write_text("no entry\n")
    (data / "0.npy").rename(data / "00.npy")
    refused("their files are others")
    (data / "00.npy").rename(data / "0.npy")
    moved = tmp_path / "elsewhere"
    data.rename(moved)
    assert bulk.encode(gaussian, moved, out, shard_size=90) == report
    assert [json.loads(line)["name"] for line in (out / "input.jsonl").read_text().splitlines()] == [
        "0.npy",
        "1.npy",
        "2.npy",
    ]


def test_an_input_of_many_files(
    tmp_path: Path, gaussian: fastvae.VAE, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastvae.bulk.identity.default_threads", lambda: 2)
    (tmp_path / "data").mkdir()
    for row in range(100):
        np.save(tmp_path / "data" / f"{row:03}.npy", rows[row : row + 1])
    bulk.score(gaussian, tmp_path / "data", tmp_path / "out")
    np.testing.assert_array_equal(columns_in(tmp_path / "out")["reconstruction"], invariant(gaussian).score(rows[:100]))
    entries = [json.loads(line) for line in (tmp_path / "out" / "input.jsonl").read_text().splitlines()]
    assert [entry["name"] for entry in entries] == [f"{row:03}.npy" for row in range(100)]
    assert entries[7]["sha256"] == hashlib.sha256((tmp_path / "data" / "007.npy").read_bytes()).hexdigest()


def test_an_input_is_hashed_again_only_where_it_may_have_changed(
    tmp_path: Path, gaussian: fastvae.VAE, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    monkeypatch.setattr("fastvae.bulk.identity.RACE_NS", 0)
    bulk.score(gaussian, table, tmp_path / "out", reading=IDS)

    def counting(*arguments: Any) -> Any:
        hashed.append(arguments)
        return hashlib.sha256(*arguments)

    monkeypatch.setattr("fastvae.bulk.identity.hashlib", SimpleNamespace(sha256=counting))
    bulk.score(gaussian, table, tmp_path / "out", reading=IDS)
    assert len(hashed) == 1  # that of the list
    table.touch()
    bulk.score(gaussian, table, tmp_path / "out", reading=IDS)
    assert len(hashed) == 3
    monkeypatch.setattr("fastvae.bulk.identity.RACE_NS", 10**15)
    bulk.score(gaussian, table, tmp_path / "out", reading=IDS)
    assert len(hashed) == 5


def test_an_input_that_changes_meanwhile_fails_its_shards(
    tmp_path: Path, gaussian: fastvae.VAE, table: Path, rows: Rows
) -> None:
    def watch(state: Progress) -> None:
        if state.event == "shard":
            write_table(table, -rows)

    with pytest.raises(IncompleteJobError, match=r"table.parquet: changed while the job was at work"):
        bulk.score(gaussian, table, tmp_path / "out", reading=IDS, shard_size=5, watch=watch)


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


Mistake = tuple[Callable[..., bulk.Report], dict[str, Any], str]
MISTAKES: list[Mistake] = [
    (bulk.encode, {"output": "median"}, "output: expected one of 'posterior', 'mean', 'sample'"),
    (bulk.encode, {"samples": 0}, "samples: expected"),
    (bulk.encode, {"seed": -1}, "seed: expected"),
    (bulk.encode, {"dtype": "uint8"}, "dtype: 'uint8' is for values in"),
    (bulk.encode, {"format": "npy"}, r"format: 'npy' holds one column, and these are 4 \(name, number, mean, logvar\)"),
    (bulk.encode, {"format": "csv"}, "format: expected"),
    (bulk.encode, {"workers": 0}, "workers: expected"),
    (bulk.encode, {"shard_size": 0}, "shard_size: expected"),
    (bulk.encode, {"invalid": "propagate"}, "invalid: expected 'raise' or 'mask'"),
    (bulk.encode, {"reading": {"scale": 1}}, "reading: expected ReadOptions, got dict"),
    (bulk.encode, {"reading": ReadOptions(image_shape=(3, 8, 8))}, r"reading: this model takes rows of shape \(6,\)"),
    (bulk.encode, {"reading": ReadOptions(id_columns=("name", "number", "x0"))}, r"found \(5,\); name ids"),
    (bulk.encode, {"reading": ReadOptions(id_columns=("nobody",))}, "has no column 'nobody'"),
    (bulk.encode, {"out": 3}, "out: expected a folder"),
    (bulk.encode, {"condition": 1}, "condition: this model is not conditional"),
    (bulk.score, {"metric": "surprise"}, "metric: expected one of"),
    (bulk.score, {"metric": ["mse", "mse"]}, "metric: expected one or several, each once"),
    (bulk.score, {"metric": []}, "metric: expected one or several"),
    (bulk.score, {"metric": 3}, "metric: expected one of"),
    (bulk.score, {"dtype": "uint8"}, "dtype: 'uint8' is for values in"),
    (bulk.reconstruct, {"dtype": "uint8"}, "dtype: uint8 needs outputs in"),
    (bulk.reconstruct, {"dtype": "uint8", "invalid": "mask"}, "dtype: 'uint8' has no NaN"),
]


@pytest.mark.parametrize(("verb", "changed", "message"), MISTAKES)
def test_mistakes(
    tmp_path: Path, gaussian: fastvae.VAE, table: Path, verb: Any, changed: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"model": gaussian, "data": table, "out": tmp_path / "out", "reading": IDS}
    with pytest.raises(InputError, match=message):
        verb(**(arguments | changed))
    assert not (tmp_path / "out").exists()


def test_ids_that_are_called_like_a_result(tmp_path: Path, gaussian: fastvae.VAE, rows: Rows) -> None:
    for name in ("index", "mean"):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({name: np.arange(N)} | {f"x{i}": rows[:, i] for i in range(6)}), path)
        with pytest.raises(InputError, match=f"id_columns: '{name}' is also a column of the result"):
            bulk.encode(gaussian, path, tmp_path / "out", reading=ReadOptions(id_columns=(name,)))


def test_text_in_a_format_that_has_no_place_for_it(
    tmp_path: Path, gaussian: fastvae.VAE, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastvae.bulk.datasets.WITH_TEXT", ())
    with pytest.raises(InputError, match=r"format: 'parquet' has no place for ids of text \(name\)"):
        bulk.encode(gaussian, table, tmp_path / "out", reading=IDS)


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
