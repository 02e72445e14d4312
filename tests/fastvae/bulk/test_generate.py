"""``bulk.generate``: the samples of the model, each once, in any cut, format and number of workers."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import fastvae
from fastvae import bulk
from fastvae.bulk import job as job_module
from fastvae.bulk.content import content_of
from fastvae.bulk.folder import Folder
from fastvae.bulk.generation import devices
from fastvae.bulk.progress import Progress
from fastvae.bulk.shards import FORMATS
from fastvae.bulk.source import stored
from fastvae.bulk.table import Block, Rows
from fastvae.errors import InputError, JobError, OutputError, UnsupportedError
from fastvae.spec import Condition
from tests.fastvae.support import mlp_spec, random_model, vae

N = 2500


def rows_in(out: Path) -> tuple[Rows, Rows]:
    """Indices and rows of all shards, in their order."""
    job = Folder(out).job()
    parts = []
    for shard in range(job.shards):
        low, high = job.bounds(shard)
        parts.append(FORMATS[job.format].read(job, shard, out, range(high - low)))
    return np.concatenate([indices for indices, _ in parts]), np.concatenate(
        [columns["sample"] for _, columns in parts]
    )


def block(rows: Rows, start: int = 0) -> Block:
    return Block(start, {"sample": rows})


def expected_of(model: fastvae.VAE, n: int, **settings: Any) -> Rows:
    """What the model's own batch-invariant verb returns."""
    engine = model._engine
    other = fastvae.VAE(engine.model, engine.settings.__class__("cpu", impl=engine.impl, batch_invariant=True))
    rows = other.generate(n, **settings)
    assert isinstance(rows, np.ndarray)
    return rows


@pytest.mark.parametrize("format", ["parquet", "npy"])
@pytest.mark.parametrize("output", ["mean", "sample"])
def test_the_rows_are_those_of_the_verb(model: fastvae.VAE, out: Path, format: Any, output: Any) -> None:
    report = bulk.generate(model, 300, out, seed=2**63 + 5, shard_size=77, format=format, output=output)
    indices, rows = rows_in(out)
    np.testing.assert_array_equal(indices, np.arange(300))
    expected = expected_of(model, 300, seed=2**63 + 5, output=output)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, expected)
    assert report.content == f"{content_of(block(expected)):016x}"
    assert (report.n, report.shards, report.folder) == (300, 4, out)


def test_the_checksum_depends_on_the_rows_alone(gaussian: fastvae.VAE, tmp_path: Path) -> None:
    cuts: list[dict[str, Any]] = [{"shard_size": 1000}, {"shard_size": 777}, {"shard_size": 1, "n": 20}, {}]
    reports = {}
    for number, cut in enumerate(cuts):
        for format in ("parquet", "npy"):
            arguments = {"n": N, "format": format} | cut
            reports[number, format] = bulk.generate(gaussian, out=tmp_path / f"{number}{format}", **arguments)
    contents = {report.content for report in reports.values() if report.n == N}
    assert contents == {f"{content_of(block(expected_of(gaussian, N))):016x}"}
    assert len({report.content for report in reports.values() if report.n == 20}) == 1
    assert len({report.job for report in reports.values()}) == len(reports)
    assert bulk.generate(gaussian, N, tmp_path / "seed", seed=1).content not in contents


def test_workers_in_processes_one_of_them_killed(gaussian: fastvae.VAE, out: Path) -> None:
    """Two spawned workers and one process make the same bytes; the same call then finds all of it there."""
    killed = []

    def watch(state: Progress) -> None:
        if state.event == "shard" and not killed:
            victim = multiprocessing.active_children()[0]
            killed.append(victim.pid)
            victim.kill()

    report = bulk.generate(gaussian, N, out, shard_size=50, workers=2, watch=watch)
    assert killed
    assert report.content == f"{content_of(block(expected_of(gaussian, N))):016x}"
    np.testing.assert_array_equal(rows_in(out)[0], np.arange(N))
    assert not multiprocessing.active_children()
    events: list[Progress] = []
    assert bulk.generate(gaussian, N, out, shard_size=50, watch=events.append) == report
    assert [(event.event, event.shards) for event in events] == [("start", 50), ("done", 50)]
    assert bulk.verify(out, gaussian).ok


def test_dtypes(model: fastvae.VAE, tmp_path: Path) -> None:
    expected = expected_of(model, 200)
    for format in ("parquet", "npy"):
        for dtype in ("float16", "uint8"):
            out = tmp_path / f"{format}{dtype}"
            bulk.generate(model, 200, out, dtype=dtype, format=format, shard_size=150)  # type: ignore[arg-type]
            rows = rows_in(out)[1]
            assert rows.dtype == dtype
            scaled = expected if dtype == "float16" else np.rint(expected * np.float32(255))
            np.testing.assert_array_equal(rows, scaled.astype(dtype))
    schema = pq.read_schema(tmp_path / "parquetuint8" / "shard-000000000.parquet")
    assert [(field.name, str(field.type)) for field in schema] == [
        ("index", "int64"),
        ("sample", "fixed_size_binary[6]"),
    ]
    assert json.loads(schema.metadata[b"fastvae"])["columns"] == {"sample": {"shape": [6], "dtype": "uint8"}}
    schema = pq.read_schema(tmp_path / "parquetfloat16" / "shard-000000000.parquet")
    assert str(schema.field("sample").type) == "fixed_size_list<element: halffloat not null>[6]"


def test_what_a_dtype_cannot_hold() -> None:
    halves = np.array([[0.5 / 255, 1.5 / 255, 0.0, 1.0]], np.float32)
    assert stored(halves, "uint8").tolist() == [[0, 2, 0, 255]]
    for value in (-1e-3, 1.001, np.nan):
        with pytest.raises(UnsupportedError, match=r"uint8 holds values in \[0, 1\] only"):
            stored(np.array([[0.5, value]], np.float32), "uint8")
    with pytest.raises(UnsupportedError, match="beyond float16"):
        stored(np.array([[7e4]], np.float32), "float16")
    assert np.isinf(stored(np.array([[np.inf]], np.float32), "float16")).all()
    assert stored(np.ones((2, 2)), "float32").dtype == np.float32


def test_conditions(tmp_path: Path) -> None:
    model = vae(mlp_spec(condition=Condition(3)), device="cpu", impl="reference")
    labels = np.arange(100) % 3
    for name, condition in {"all": labels, "one": 1, "vector": np.array([0.5, 0, 1], np.float32)}.items():
        bulk.generate(model, 100, tmp_path / name, shard_size=30, condition=condition)
        np.testing.assert_array_equal(rows_in(tmp_path / name)[1], expected_of(model, 100, condition=condition))
    one_hot = np.eye(3, dtype=np.float32)[labels]
    again = bulk.generate(model, 100, tmp_path / "all", shard_size=30, condition=one_hot)
    assert bulk.verify(tmp_path / "all", model, condition=labels).ok
    assert again.job == Folder(tmp_path / "all").job().id
    with pytest.raises(JobError, match="condition"):
        bulk.generate(model, 100, tmp_path / "all", shard_size=30, condition=labels[::-1])
    with pytest.raises(InputError, match="condition"):
        bulk.generate(model, 99, tmp_path / "none", condition=labels)
    assert not (tmp_path / "none").exists()


def test_nothing_to_do(model: fastvae.VAE, out: Path) -> None:
    report = bulk.generate(model, 0, out)
    assert (report.shards, report.content) == (0, "0" * 16)
    assert sorted(path.name for path in out.iterdir()) == [".lock", "_SUCCESS", "job.json"]
    assert bulk.verify(out, model).ok


def test_a_name_or_a_path_is_a_model(out: Path, model: fastvae.VAE, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    bulk.generate(tmp_path / "model.safetensors", 10, out)
    np.testing.assert_allclose(rows_in(out)[1], expected_of(model, 10), rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": 101}, r"n 100, not 101\)"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"shard_size": 31}, "shard_size 30, not 31"),
        ({"format": "npy"}, "format parquet, not npy"),
        ({"dtype": "float16"}, r"columns sample float32\[6\], not sample float16\[6\]"),
        ({"output": "sample"}, "output mean, not sample"),
    ],
)
def test_a_folder_with_another_job(out: Path, gaussian: fastvae.VAE, changed: dict[str, Any], message: str) -> None:
    bulk.generate(gaussian, 100, out, shard_size=30)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(JobError, match=f"holds another job.*{message}"):
        bulk.generate(gaussian, **({"n": 100, "out": out, "shard_size": 30} | changed))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_another_model_precision_or_version_is_another_job(
    out: Path, gaussian: fastvae.VAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk.generate(gaussian, 10, out)
    other = fastvae.VAE(random_model(gaussian.spec, seed=1), gaussian._engine.settings)
    with pytest.raises(JobError, match=r"another job \(weights [0-9a-f]{12}\.\.\., not [0-9a-f]{12}\.\.\.\)"):
        bulk.generate(other, 10, out)
    double = vae(gaussian.spec, device="cpu", impl="reference", precision="float64")
    with pytest.raises(JobError, match="precision ieee, not float64"):
        bulk.generate(double, 10, out)
    with pytest.raises(JobError, match="weights differ"):
        bulk.verify(out, other)
    with pytest.raises(JobError, match="in another way than this model would: precision ieee, not float64"):
        bulk.verify(out, double)
    monkeypatch.setattr(fastvae, "__version__", "99")
    with pytest.raises(JobError, match=r"engine .*, not 99"):
        bulk.generate(gaussian, 10, out)


def test_threads_are_part_of_a_job_where_bits_depend_on_them(
    tmp_path: Path, gaussian: fastvae.VAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk.generate(gaussian, 10, tmp_path / "plain")
    reports = [
        bulk.generate(fastvae.load("digits", threads=threads), 300, tmp_path / "onnx", shard_size=100)
        for threads in (1, 3)
    ]
    assert reports[0] == reports[1]
    other = bulk.generate(fastvae.load("digits", threads=3), 300, tmp_path / "other", shard_size=70)
    assert other.content == reports[0].content
    monkeypatch.setattr("torch.get_num_threads", lambda: 77)
    with pytest.raises(JobError, match=r"threads \d+, not 77"):
        bulk.generate(gaussian, 10, tmp_path / "plain")


def test_a_folder_with_other_files(out: Path, gaussian: fastvae.VAE) -> None:
    out.mkdir(parents=True)
    (out / "thesis.tex").touch()
    with pytest.raises(JobError, match=r"holds files but no job \('thesis.tex'\)"):
        bulk.generate(gaussian, 10, out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    (out / "thesis.tex").unlink()
    (out / "job.json").write_text('{"id": "0", "job": {}}')
    with pytest.raises(JobError, match="holds no job of this version"):
        bulk.generate(gaussian, 10, out)
    (out / "job.json").unlink()
    (out / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        bulk.generate(gaussian, 10, out / "file")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": -1}, "n: expected an integer"),
        ({"n": True}, "n: expected an integer"),
        ({"seed": -1}, "seed: expected"),
        ({"shard_size": 0}, "shard_size: expected"),
        ({"n": 10**10, "shard_size": 1}, "shard_size: 10,000,000,000 samples would be more than"),
        ({"format": "csv"}, "format: expected one of 'parquet', 'parquet-bytes', 'npy', 'zarr', 'webdataset', 'png'"),
        ({"format": []}, "format: expected"),
        ({"dtype": "float64"}, "dtype: expected one of"),
        ({"dtype": "uint8"}, r"dtype: uint8 needs outputs in \[0, 1\]"),
        ({"output": "median"}, "output: expected"),
        ({"workers": 0}, "workers: expected"),
        ({"condition": 1}, "condition: this model is not conditional"),
        ({"model": "nothing"}, "neither a file"),
        ({"out": "a\0b"}, "out: expected"),
        ({"out": 3}, "out: expected"),
    ],
)
def test_mistakes(out: Path, gaussian: fastvae.VAE, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bulk.generate(**({"model": gaussian, "n": 10, "out": out} | changed))
    assert not out.exists()


def test_the_default_size_of_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, block = job_module.sizes(10, 24, 1000, None)
    assert 24 * rows <= job_module.SHARD_BYTES < 24 * (rows + 128)
    assert rows % 128 == block % 128 == 0
    assert job_module.sizes(10, 24, 1000, 5) == (5, 5)
    monkeypatch.setattr(job_module, "SHARD_FLOPS", 1)
    assert job_module.sizes(10, 24, 1000, None) == (1, 1)


@pytest.mark.parametrize(
    ("device", "gpus", "workers"), [("cpu", 4, 1), ("cuda", 4, 4), ("cuda", 0, 1), ("cuda:2", 4, 1)]
)
def test_a_worker_for_every_gpu(monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, workers: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert devices(torch.device(device)) == workers
