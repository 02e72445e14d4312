"""``bulk.verify``: everything that is not as it was written is named."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import fastvae
from fastvae import bulk
from fastvae.bulk.folder import Folder
from fastvae.bulk.job import Job
from fastvae.bulk.shards import FORMATS
from fastvae.bulk.table import Column
from fastvae.errors import InputError, JobError


@pytest.fixture(params=["npy", "parquet", "zarr", "webdataset"])
def job(request: pytest.FixtureRequest, tmp_path: Path, gaussian: fastvae.VAE) -> Path:
    bulk.generate(gaussian, 100, tmp_path, shard_size=30, format=request.param)
    return tmp_path


def named(job: Job, folder: Path, number: int) -> Path:
    return folder / FORMATS[job.format].names(job, number)[-1]


def shard(folder: Path, number: int) -> Path:
    return named(Folder(folder).job(), folder, number)


def test_a_job_as_it_was_written(job: Path, gaussian: fastvae.VAE) -> None:
    seen: list[bulk.Progress] = []
    found = bulk.verify(job, watch=seen.append)
    assert (found.ok, found.shards, found.rows, found.problems) == (True, 4, 0, ())
    assert {(state.event, state.n, state.of_shards, state.failed) for state in seen} == {("shard", 100, 4, 0)}
    assert [(state.samples, state.shards) for state in seen] == [(30, 1), (60, 2), (90, 3), (100, 4)]
    assert seen[0].rate > 0 < (seen[0].eta or 0)
    found = bulk.verify(job, gaussian, rows=1000)
    assert found.ok
    assert found.rows == 100
    assert bulk.verify(job, gaussian, rows=99).rows == 99
    assert bulk.verify(job, gaussian, rows=0).rows == 0


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "has another SHA-256 than the manifest says"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes instead of"),
        (Path.unlink, "is missing"),
    ],
)
def test_damaged_files(job: Path, gaussian: fastvae.VAE, damage: Callable[[Path], None], message: str) -> None:
    damage(shard(job, 2))
    failed: list[int] = []
    found = bulk.verify(job, gaussian, watch=lambda state: failed.append(state.failed))
    assert failed == [0, 0, 1, 1]
    assert not found.ok
    assert found.shards == 3
    assert len(found.problems) == 1
    assert found.problems[0].startswith("shard 2: ")
    assert message in found.problems[0]
    shard(job, 2).unlink(missing_ok=True)
    bulk.generate(gaussian, 100, job, shard_size=30, format=Folder(job).job().format)  # type: ignore[arg-type]
    assert bulk.verify(job, gaussian).ok


def test_a_job_that_is_not_done(job: Path) -> None:
    (job / "_SUCCESS").unlink()
    manifest = job / "manifest.jsonl"
    manifest.write_bytes(b"".join(manifest.read_bytes().splitlines(keepends=True)[:-1]))
    assert bulk.verify(job).problems == (
        "shard 3: is not in the manifest",
        "_SUCCESS is missing: the job is not done",
    )


def test_a_success_of_other_rows(job: Path) -> None:
    success = json.loads((job / "_SUCCESS").read_text())
    (job / "_SUCCESS").write_text(json.dumps(success | {"content": "0" * 16}))
    assert bulk.verify(job).problems == ("_SUCCESS does not belong to these shards",)


def forge(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:  # type: ignore[type-arg]
    """Change the rows of shard 1, of an .npy job, and make the manifest agree."""
    path = shard(folder, 1)
    np.save(path, change(np.load(path)))
    vouch(folder, path)


def vouch(folder: Path, path: Path) -> None:
    """Make the manifest agree with the file of shard 1."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for line in lines:
        if line["shard"] == 1:
            line["files"] = [{"name": path.name, "sha256": digest, "bytes": path.stat().st_size}]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_rows_that_the_model_does_not_make(tmp_path: Path, gaussian: fastvae.VAE) -> None:
    bulk.generate(gaussian, 100, tmp_path, shard_size=30, format="npy")
    forge(tmp_path, lambda rows: np.nextafter(rows, np.float32(9)))
    assert bulk.verify(tmp_path).ok
    found = bulk.verify(tmp_path, gaussian, rows=1000)
    assert found.problems == tuple(f"row {index}: made again, it has other bits (sample)" for index in range(30, 60))
    assert found.rows == 70
    seeds = {bulk.verify(tmp_path, gaussian, rows=5, seed=seed).problems for seed in range(5)}
    assert len(seeds) > 1
    forge(tmp_path, lambda rows: rows[:-1])
    assert bulk.verify(tmp_path).problems == ("shard 1: has 29 rows instead of 30",)
    forge(tmp_path, lambda rows: rows[:, :5])
    assert len(bulk.verify(tmp_path).problems) == 1


IMPOSSIBLE: list[dict[str, Any]] = [
    {"n": -1},
    {"n": 2**62, "shard_size": 1},
    {"shard_size": 0},
    {"block_rows": 0},
    {"columns": []},
    {"columns": [{"name": "sample", "dtype": "float32", "shape": [-1]}]},
    {"columns": [{"name": "sample", "dtype": "float32", "shape": ["6"]}]},
    {"columns": [{"name": "sample", "dtype": "object", "shape": [6]}]},
    {"columns": [{"name": "index", "dtype": "float32", "shape": [6]}]},
    {"columns": 2 * [{"name": "sample", "dtype": "float32", "shape": [6]}]},
    {"format": "../npy"},
]


def forged(job: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A job.json with other fields and an id that agrees."""
    values = job | changed
    columns = tuple(Column(**(column | {"shape": tuple(column["shape"])})) for column in values["columns"])
    return {"id": Job(**(values | {"columns": columns})).id, "job": values}


def test_indices_that_are_wrong(tmp_path: Path, gaussian: fastvae.VAE) -> None:
    bulk.generate(gaussian, 60, tmp_path, shard_size=30)
    path = shard(tmp_path, 1)
    table = pq.read_table(path)
    indices = table["index"].to_numpy() + 1
    pq.write_table(table.set_column(0, table.schema.field("index"), [indices]), path)
    vouch(tmp_path, path)
    assert bulk.verify(tmp_path, gaussian, rows=60).problems == tuple(
        f"shard 1, row {row}: has index {31 + row}, not {30 + row}" for row in range(30)
    )


def test_folders_that_hold_no_job(tmp_path: Path, gaussian: fastvae.VAE, job: Path) -> None:
    with pytest.raises(JobError, match=r"is not the folder of a job; it has no job.json"):
        bulk.verify(tmp_path / "nothing")
    document = json.loads((job / "job.json").read_text())
    for changed in (
        document | {"id": "0" * 64},
        document | {"job": document["job"] | {"n": "100"}},
        document | {"job": document["job"] | {"more": 1}},
        [],
        *(forged(document["job"], **changed) for changed in IMPOSSIBLE),
    ):
        (job / "job.json").write_text(json.dumps(changed))
        with pytest.raises(JobError, match="holds no job of this version of fastvae"):
            bulk.verify(job)
    (job / "job.json").write_bytes(b"\xff")
    with pytest.raises(JobError, match="is not the folder of a job"):
        bulk.verify(job)


def test_mistakes(job: Path, gaussian: fastvae.VAE) -> None:
    with pytest.raises(InputError, match="rows: expected"):
        bulk.verify(job, rows=-1)
    with pytest.raises(InputError, match="seed: expected"):
        bulk.verify(job, seed=-1)
    with pytest.raises(InputError, match="condition: this model is not conditional"):
        bulk.verify(job, gaussian, condition=1)
