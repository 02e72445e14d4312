"""What it costs to write samples: bulk jobs beside the bare decoder, in one run.

Run as ``python -m bench.bulk``, with ``--rows`` for fewer. Everything makes the same samples of an untrained 64-512-784
decoder, in turn, on this machine's threads: the decoder alone, block by block, in batch-invariant mode, on one thread,
and without; jobs in this process in each format; and the command line to Parquet, from the start of its process, with
one worker on all threads, one on a single thread, one that is kept to a single core with its driver and all that it
writes, and two on a single thread each.
"After the first" are the rows after each worker's first shard, over the time they took: a rate without the start.
Medians, and ratios of times that are taken round by round, go to ``bench/results/bulk.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

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
ALONE, CORE, TWO = "command, 1 thread", "command, 1 core", "command, 2 workers of 1 thread"
WAYS: dict[str, tuple[str, ...]] = {
    "command": (),
    ALONE: ("--threads", "1"),
    CORE: ("--threads", "1"),
    TWO: ("--threads", "1", "--workers", "2"),
}
DTYPES: tuple[Dtype, ...] = ("float32", "uint8")
# Seconds in all, until the first block or shard, and rows a second after that.
Times: TypeAlias = tuple[float, float, float]
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


class Clock:
    """Takes the time as ``workers`` get rows done, block by block or shard by shard."""

    def __init__(self, workers: int = 1) -> None:
        self._workers = workers
        self._begun = time.perf_counter()
        self._told: list[tuple[float, int]] = []

    def tell(self, rows: int) -> None:
        """So many are done in all."""
        self._told.append((time.perf_counter() - self._begun, rows))

    def times(self) -> Times:
        """It is all done; the rate is NaN where no worker got further than its first."""
        seconds = time.perf_counter() - self._begun
        if len(self._told) <= self._workers:
            return seconds, self._told[0][0], math.nan
        (since, few), (last, all_rows) = self._told[self._workers - 1], self._told[-1]
        return seconds, self._told[0][0], (all_rows - few) / (last - since)


def decoder(vae: fastvae.VAE, rows: int) -> Times:
    """What it takes to make the samples and drop them."""
    clock = Clock()
    for start in range(0, rows, 2048):
        vae.generate(min(2048, rows - start), start=start)
        clock.tell(min(start + 2048, rows))
    return clock.times()


def job(vae: fastvae.VAE, rows: int, folder: Path, format: Format, dtype: Dtype) -> Times:
    """What a job in this process takes."""

    def watch(state: Progress) -> None:
        if state.event == "shard":
            clock.tell(state.samples)

    with tempfile.TemporaryDirectory(dir=folder) as out:
        clock = Clock()
        bulk.generate(vae, rows, out, format=format, dtype=dtype, watch=watch)
        return clock.times()


def command(model: Path, rows: int, folder: Path, options: Sequence[str], cores: set[int]) -> Times:
    """What ``fastvae generate`` to Parquet takes on these ``cores``, start-up included."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        arguments = ["generate", str(model), "-n", str(rows), "--out", out, *options, "--json"]
        clock = Clock(workers=2 if "--workers" in options else 1)
        process = subprocess.Popen(
            [sys.executable, "-m", "fastvae", *arguments],
            preexec_fn=partial(os.sched_setaffinity, 0, cores),
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if (event := json.loads(line))["event"] == "shard":
                clock.tell(event["samples"])
        if process.wait():
            raise RuntimeError(f"fastvae generate failed with status {process.returncode}")
        return clock.times()


def calls(model: Path, rows: int, folder: Path) -> dict[str, Callable[[], Times]]:
    """What is timed, by name."""
    found = Model(bulk_spec(), random_weights(bulk_spec()))
    threads = torch.get_num_threads()
    plain, invariant, alone = (
        fastvae.VAE(found, Settings(device="cpu", threads=count, batch_invariant=mode))
        for count, mode in ((threads, False), (threads, True), (1, True))
    )
    plain.save(model)
    timed: dict[str, Callable[[], Times]] = {
        "decoder": lambda: decoder(invariant, rows),
        "decoder, 1 thread": lambda: decoder(alone, rows),
        "decoder, not batch-invariant": lambda: decoder(plain, rows),
    }
    for format, dtype in FORMATS:
        timed[f"{format} {dtype}"] = partial(job, invariant, rows, folder, format, dtype)
    cores = os.sched_getaffinity(0)
    for dtype in DTYPES:
        for way, options in WAYS.items():
            kept = {min(cores)} if way == CORE else cores
            timed[f"{way} {dtype}"] = partial(command, model, rows, folder, (*options, "--dtype", dtype), kept)
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
        times: dict[str, list[Times]] = {key: [] for key in timed}
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
    """Rates, seconds to the first shard or block, and times over the decoder's, as medians over rounds.

    Two workers are compared by their rates after the first shard, and so are all threads with one.
    """
    bare = times["decoder"][:, 0]

    def gain(way: str, base: str) -> float:
        return round(float(np.median(times[way][:, 2] / times[base][:, 2])), 2)

    return {
        "study": "bulk",
        "rows": rows,
        "rounds": len(bare),
        "rows_per_second": {key: round(rows / float(np.median(found[:, 0]))) for key, found in times.items()},
        "after_the_first": {key: round(float(np.median(found[:, 2]))) for key, found in times.items()},
        "first_seconds": {key: round(float(np.median(found[:, 1])), 2) for key, found in times.items()},
        "time_over_decoder": {key: round(float(np.median(found[:, 0] / bare)), 2) for key, found in times.items()},
        "threads_over_one": gain("decoder", "decoder, 1 thread"),
        "two_workers_over_one": {dtype: gain(f"{TWO} {dtype}", f"{ALONE} {dtype}") for dtype in DTYPES},
        "two_workers_over_one_core": {dtype: gain(f"{TWO} {dtype}", f"{CORE} {dtype}") for dtype in DTYPES},
    }


if __name__ == "__main__":
    main()
