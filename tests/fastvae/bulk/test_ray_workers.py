"""Workers that are Ray actors: the same rows as from any others, whatever is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import ray.data

import fastvae
from fastvae import bulk
from fastvae.bulk.content import content_of
from fastvae.bulk.folder import MANIFEST, Folder
from fastvae.bulk.progress import Progress
from fastvae.bulk.ray_workers import Cluster
from fastvae.bulk.table import Block
from fastvae.errors import IncompleteJobError, InputError
from tests.fastvae.bulk.fakes import (
    MadeRecipe,
    assert_whole,
    contents,
    drive,
    drive_with,
    made_job,
)
from tests.fastvae.commands import ROOT, generate_digits

SAMPLES, SHARD = 40_000, 400


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Ray on this machine, as a user would start it."""
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray.get_runtime_context().gcs_address
    assert ray.is_initialized()  # nobody has shut down what was there before
    ray.shutdown()


def test_four_workers_make_the_same_rows(address: str, tmp_path: Path) -> None:
    """As many as there is room for; one and two workers are below."""
    model = fastvae.load("digits", batch_invariant=True)
    expected = content_of(Block(0, {"sample": model.generate(800)}))
    events: list[Progress] = []
    report = bulk.generate(model, 800, tmp_path / "job", shard_size=77, ray=address, watch=events.append)
    assert report.content == f"{expected:016x}"
    assert [event.event for event in events].count("shard") == report.shards == 11
    last = [event.workers for event in events if event.workers][-1]
    assert len(last) == 4
    assert sum(worker.done for worker in last) == 11
    assert bulk.verify(tmp_path / "job", model).ok


def test_actors_killed_at_every_step_are_replaced(address: str, tmp_path: Path) -> None:
    job = made_job(n=200, shard_size=10)
    drive(job, tmp_path / "undisturbed")
    path, steps = tmp_path / "job", tmp_path / "steps"
    steps.mkdir()
    for step in ("load", "row 50", "write", "sync_folder"):
        (steps / step).touch()
    events: list[Progress] = []
    with (
        Cluster(True, MadeRecipe(job, path, steps), 2) as crew,
        pytest.raises(IncompleteJobError, match=r"1 of 20 shards failed 3 times \(shard 3: ValueError: thirty-nine\)"),
    ):
        drive_with(crew, job, Folder(path), events.append)
    assert not list(steps.iterdir())
    names = [event.event for event in events]
    assert (names.count("worker"), names.count("shard"), names.count("failed")) == (4, 19, 1)
    assert sum(worker.replaced for worker in events[-1].workers) == 4
    assert not list(path.glob(".*.tmp"))
    drive(job, path)
    assert_whole(job, path)
    assert contents(path) == contents(tmp_path / "undisturbed")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lines(out: Path) -> int:
    return (out / MANIFEST).read_bytes().count(b"\n") if (out / MANIFEST).exists() else 0


def actors() -> list[int]:
    """Processes of our actors."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_text().startswith("ray::Seat"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def until(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """Read the JSON that a command prints up to an event of that name."""
    assert process.stdout is not None
    for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event:
            return found
    raise AssertionError(process.communicate())


def test_a_driver_is_interrupted_and_another_is_killed(address: str, tmp_path: Path) -> None:
    """The first after one of its actors was; what Ray says of that does not come between the JSON."""
    out = tmp_path / "job"
    process = generate_digits(out, SAMPLES, SHARD, "--workers", 2, "--ray", address, "--json")
    until(process, "shard")
    os.kill(actors()[0], signal.SIGKILL)
    state = until(process, "worker")
    assert sum(worker["replaced"] for worker in state["workers"]) == 1
    until(process, "shard")
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stderr == f"{out}: stopped; the same command goes on with what is there\nfastvae: interrupted\n"
    assert all(json.loads(line)["event"] for line in stdout.splitlines())
    assert not list(out.glob(".*.tmp"))
    done = lines(out)

    process = generate_digits(out, SAMPLES, SHARD, "--workers", 1, "--ray", address)
    wait_for(lambda: lines(out) > done or process.poll() is not None)
    assert actors()
    process.kill()
    process.communicate(timeout=120)
    wait_for(lambda: not actors())
    assert 0 < done < lines(out) < SAMPLES // SHARD

    model = fastvae.load("digits")
    report = bulk.generate(model, SAMPLES, out, shard_size=SHARD)
    assert report.content == bulk.generate(model, SAMPLES, tmp_path / "whole", format="npy").content
    assert bulk.verify(out, model).ok


def test_the_recipe_for_a_ray_dataset(address: str) -> None:
    """The code in docs/bulk.md."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "bulk.md").read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "map_batches" in block)
    model = fastvae.load("digits", batch_invariant=True)
    rows = model.generate(300)
    ray.data.DataContext.get_current().enable_progress_bars = False
    names: dict[str, Any] = {"dataset": ray.data.from_numpy(rows), "__name__": "recipe"}
    names["dataset"] = names["dataset"].rename_columns({"data": "pixels"})
    exec(code, names)
    found = names["encoded"].take_all()
    assert len(found) == 300
    order = {row["pixels"].tobytes(): row for row in found}
    for name, expected in (("latent", model.embed(rows)), ("surprise", model.score(rows, "elbo"))):
        np.testing.assert_array_equal([order[row.tobytes()][name] for row in rows], expected)


def test_another_cluster_than_this_process_has(address: str, tmp_path: Path, gaussian: fastvae.VAE) -> None:
    with pytest.raises(InputError, match=f"connected to the Ray at {address}, not at 'other:1'; pass ray=True"):
        bulk.generate(gaussian, 10, tmp_path / "job", ray="other:1")
