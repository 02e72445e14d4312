"""Several threads on a CPU: what they bring, and which way of sharing the work brings more.

Run as ``python -m bench.threads``. Verbs on several internal batches, NumPy to NumPy, in turn on one thread, on this
machine's threads sharing each batch, and with batches side by side where the engine does so; in batch-invariant mode
too. Ratios of times that are taken round by round, as medians, go to ``bench/results/threads.jsonl``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

import fastvae
from bench.cases import inputs
from bench.environment import OUT, environment
from bench.models import model
from bench.timing import interleaved
from fastvae.arrays import Array
from fastvae.runtime import Settings
from fastvae.runtime.side_by_side import Sharing

MODELS = ("mlp", "mnist", "digits")
VERBS = ("generate", "encode", "decode", "score")
ROWS = (1024, 4096)


def call(vae: fastvae.VAE, verb: str, x: Array, z: Array) -> Callable[[], Array]:
    """The verb on these rows."""
    if verb == "generate":
        return lambda: vae.generate(len(x), seed=1)
    if verb == "score":
        return lambda: vae.score(x, "elbo")
    return (lambda: vae.decode(z)) if verb == "decode" else (lambda: vae.embed(x))


def one_by_one(timed: Callable[[], Array]) -> Callable[[], Array]:
    """``timed`` without batches side by side."""

    def run() -> Array:
        with patch.object(Sharing, "of", lambda *_: None):
            return timed()

    return run


def gains(name: str, verb: str, rows: int, *, batch_invariant: bool) -> dict[str, float]:
    """Times, as medians in microseconds of a row, and how many times as long the other two ways take."""
    alone, several = (
        fastvae.VAE(model(name), Settings(device="cpu", threads=threads, batch_invariant=batch_invariant))
        for threads in (1, torch.get_num_threads())
    )
    x = inputs(name, rows)[0].numpy()
    z = alone.embed(x)
    calls = {
        "one thread": call(alone, verb, x, z),
        "shared": one_by_one(call(several, verb, x, z)),
        "side by side": call(several, verb, x, z),
    }
    times, _ = interleaved(calls, rounds=21, min_rounds=5, seconds=1.0)
    found = {f"{key}, us a row": round(float(np.median(times[key])) / rows, 2) for key in calls}
    for key in ("one thread", "shared"):
        found[key] = round(float(np.median(np.divide(times[key], times["side by side"]))), 2)
    return found


def main() -> None:
    """Time, print and append one row."""
    found: dict[str, dict[str, float]] = {}
    for name, verb, rows, invariant in product(MODELS, VERBS, ROWS, (False, True)):
        case = f"{name} {verb} {rows}{', batch-invariant' if invariant else ''}"
        found[case] = gains(name, verb, rows, batch_invariant=invariant)
        print(f"{case}: {found[case]}", flush=True)
    row = environment() | {"study": "threads", "over side by side": found}
    with Path(OUT / "threads.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
