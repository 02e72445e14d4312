"""What it costs to write samples: bulk jobs beside the bare decoder, in one run.

Run as ``python -m bench.bulk``, with ``--rows`` for fewer. Everything makes the same samples of an untrained 64-512-784
decoder, in turn, on this machine's threads: the decoder alone, block by block, in batch-invariant mode and without;
jobs in this process in each format; and the command line to Parquet, from the start of its process, with one worker on
all threads, one on a single thread, and two on a single thread each.
Medians, and ratios of times that are taken round by round, go to ``bench/results/bulk.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import fastvae
from bench.environment import OUT, environment
from bench.models import random_weights
from fastvae import bulk
from fastvae.bulk.generation import Dtype, Format
from fastvae.bulk.progress import Progress
from fastvae.layers import Activation, Linear
from fastvae.model import Model
from fastvae.runtime import Settings
from fastvae.spec import Bernoulli, GaussianHead, ModelSpec

ROWS, ROUNDS = 10**6, 3
FORMATS: tuple[tuple[Format, Dtype], ...] = (
    ("parquet", "float32"),
    ("parquet-bytes", "float32"),
    ("npy", "float32"),
    ("parquet", "uint8"),
)
# Options of the command line, and of its dtypes.
ALONE, TWO = "command, 1 thread", "command, 2 workers of 1 thread"
WAYS: dict[str, tuple[str, ...]] = {
    "command": (),
    ALONE: ("--threads", "1"),
    TWO: ("--threads", "1", "--workers", "2"),
}
DTYPES: tuple[Dtype, ...] = ("float32", "uint8")
COMMANDS = {f"{way} {dtype}": (*options, "--dtype", dtype) for dtype in DTYPES for way, options in WAYS.items()}
ROOT = Path(__file__).parents[1]


def bulk_spec() -> ModelSpec:
    """784-512-(2x64)-512-784 with ReLU, of which a job runs the decoder."""
    relu = Activation("relu")
    return ModelSpec(
        input_shape=(784,),
        latent_shape=(64,),
        encoder=(Linear("e0", 784, 512), relu),
        posterior=GaussianHead("separate", mean=(Linear("mean", 512, 64),), scale=(Linear("logvar", 512, 64),)),
        decoder=(Linear("d0", 64, 512), relu, Linear("d1", 512, 784)),
        likelihood=Bernoulli(),
        name="bulk",
    )


def decoder(vae: fastvae.VAE, rows: int) -> tuple[float, float]:
    """Seconds to make the samples and drop them, and those until the first block."""
    begun = time.perf_counter()
    first = 0.0
    for start in range(0, rows, 2048):
        vae.generate(min(2048, rows - start), start=start)
        first = first or time.perf_counter() - begun
    return time.perf_counter() - begun, first


def job(vae: fastvae.VAE, rows: int, folder: Path, format: Format, dtype: Dtype) -> tuple[float, float]:
    """Seconds of a job in this process, and those until its first shard."""
    shards: list[float] = []

    def watch(state: Progress) -> None:
        if state.event == "shard":
            shards.append(time.perf_counter() - begun)

    with tempfile.TemporaryDirectory(dir=folder) as out:
        begun = time.perf_counter()
        bulk.generate(vae, rows, out, format=format, dtype=dtype, watch=watch)
        return time.perf_counter() - begun, shards[0]


def command(model: Path, rows: int, folder: Path, options: Sequence[str]) -> tuple[float, float]:
    """Seconds of ``fastvae generate`` to Parquet, start-up included, and those until its first shard."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        arguments = ["generate", str(model), "-n", str(rows), "--out", out, *options, "--json"]
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "fastvae", *arguments],
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        first = 0.0
        for line in process.stdout:
            if json.loads(line)["event"] == "shard":
                first = first or time.perf_counter() - begun
        if process.wait():
            raise RuntimeError(f"fastvae generate failed with status {process.returncode}")
        return time.perf_counter() - begun, first


def calls(model: Path, rows: int, folder: Path) -> dict[str, Callable[[], tuple[float, float]]]:
    """What is timed, by name."""
    found = Model(bulk_spec(), random_weights(bulk_spec()))
    threads = torch.get_num_threads()
    plain, invariant = (
        fastvae.VAE(found, Settings(device="cpu", threads=threads, batch_invariant=mode)) for mode in (False, True)
    )
    plain.save(model)
    timed: dict[str, Callable[[], tuple[float, float]]] = {
        "decoder": lambda: decoder(invariant, rows),
        "decoder, not batch-invariant": lambda: decoder(plain, rows),
    }
    for format, dtype in FORMATS:
        timed[f"{format} {dtype}"] = partial(job, invariant, rows, folder, format, dtype)
    for name, options in COMMANDS.items():
        timed[name] = partial(command, model, rows, folder, options)
    return timed


def main() -> None:
    """Time, print and append one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--folder", type=Path, default=None, help="where jobs write; default: the system's for that")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        timed = calls(folder / "model.safetensors", options.rows, folder)
        times: dict[str, list[tuple[float, float]]] = {key: [] for key in timed}
        for number in range(options.rounds):
            first = number % len(timed)
            for key in [*timed][first:] + [*timed][:first]:
                times[key].append(timed[key]())
                print(f"round {number + 1} of {options.rounds}: {key}, {times[key][-1][0]:.1f} s", file=sys.stderr)
    row = environment() | summary({key: np.array(found) for key, found in times.items()}, options.rows)
    with (OUT / "bulk.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=2))


def summary(times: dict[str, NDArray[np.float64]], rows: int) -> dict[str, object]:
    """Rows per second, seconds to the first shard or block, and times over the decoder's, as medians over rounds."""
    bare = times["decoder"][:, 0]
    two_over_one = {dtype: times[f"{ALONE} {dtype}"][:, 0] / times[f"{TWO} {dtype}"][:, 0] for dtype in DTYPES}
    return {
        "study": "bulk",
        "rows": rows,
        "rounds": len(bare),
        "rows_per_second": {key: round(rows / float(np.median(found[:, 0]))) for key, found in times.items()},
        "first_seconds": {key: round(float(np.median(found[:, 1])), 2) for key, found in times.items()},
        "time_over_decoder": {key: round(float(np.median(found[:, 0] / bare)), 2) for key, found in times.items()},
        "two_workers_over_one": {dtype: round(float(np.median(ratios)), 2) for dtype, ratios in two_over_one.items()},
    }


if __name__ == "__main__":
    main()
