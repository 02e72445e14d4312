"""The engine on a GPU through its public API, as tools/gpu_check.py checks and measures it.

Bits with graphs and without, threads, memory that runs out, memory that closing frees, kernels compiled for a new
batch size, latency, throughput from host memory, and the time from a fresh process to the first sample.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import triton
from gpu_timing import DEVICE, DRY, QUANTILES, machine

from bench.cases import model as model_of
from fastvae.api import VAE
from fastvae.runtime import Settings
from fastvae.runtime.staging import Stages

Row = dict[str, Any]
MODELS = ("digits",) if DRY else ("mlp", "mnist", "digits")
SIZES = (1, 2, 17) if DRY else (1, 2, 15, 16, 17, 255, 256, 257, 1000, 2047, 2048, 4096, 4097, 9000)
BULK = 300 if DRY else 200_000
REPETITIONS = 3 if DRY else 500


def vae(name: str, **settings: Any) -> VAE:
    """The model on the device, in float32 unless the settings say otherwise."""
    return VAE(model_of(name), Settings(device=str(DEVICE), **settings))


def data(name: str, rows: int) -> np.ndarray[Any, Any]:
    """Rows in [0, 1] from a fixed seed."""
    shape = model_of(name).spec.input_shape
    return np.random.default_rng(rows).random((rows, *shape), dtype=np.float32)


def results(model: VAE, x: Any) -> dict[str, Any]:
    """What the verbs give for some rows."""
    q = model.encode(x)
    return {
        "mean": q.mean,
        "logvar": q.logvar,
        "reconstruct": model.reconstruct(x),
        "elbo": model.score(x, "elbo"),
        "iwae": model.score(x, "iwae", samples=2),
        "l2": model.score(x, "l2"),
        "generate": model.generate(len(x), seed=1, start=2**33),
        "pixels": np.asarray(model.reconstruct(x, output="uint8"), np.float32),
    }


def differing(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """The verbs whose bits are not the same."""
    return [name for name, value in found.items() if not np.array_equal(value, expected[name])]


def report(op: str, problem: Any, **details: Any) -> Row:
    """A row that is an error if there is any problem."""
    row = {"section": "runtime", "op": op, **details, **machine()}
    return {**row, "error": str(problem)[:600]} if problem else row


def graphs_rows() -> Iterator[Row]:
    """Every size with graphs and without: the same bits in batch-invariant mode, and where all ops are kernels."""
    for name in MODELS:
        for invariant in (True, False):
            graphed = vae(name, batch_invariant=invariant)
            plain = vae(name, batch_invariant=invariant, graphs=False)
            other, furthest = {}, 0.0
            for rows in SIZES:
                found, expected = results(graphed, data(name, rows)), results(plain, data(name, rows))
                if wrong := differing(found, expected):
                    other[rows] = wrong
                furthest = max(furthest, *(float(np.abs(found[verb] - expected[verb]).max()) for verb in found))
            must = invariant or name == "mlp"
            problem = f"{name}: other bits: {other}" if other and must else ""
            yield report("graphs", problem, model=name, invariant=invariant, other_bits=other, largest=furthest)


def threads_rows() -> Iterator[Row]:
    """Eight threads that share a model, each with batches of its own: the bits of calls one by one."""
    model = vae(MODELS[0])
    batches = [data(MODELS[0], rows) for rows in SIZES[:6]]
    expected = [results(model, x) for x in batches]
    wrong: list[str] = []

    def work(first: int) -> None:
        try:
            for k in range(REPETITIONS // 10 + 1):
                i = (first + k) % len(batches)
                wrong.extend(f"{len(batches[i])} rows: {n}" for n in differing(results(model, batches[i]), expected[i]))
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")

    workers = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    yield report("threads", sorted(set(wrong)))


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let PyTorch have no more than ``size`` bytes beyond what it has."""
    if DRY:
        yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + size) / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def memory_rows() -> Iterator[Row]:
    """An internal batch far beyond what there is room for: smaller ones, and the same bits."""
    x = data("digits", BULK)
    expected = vae("digits", batch_invariant=True).score(x, "elbo")
    model = vae("digits", batch_invariant=True, batch_size=BULK)
    model.warmup((1,), ("score",))
    with room_for(x.nbytes // 2):
        found = model.score(x, "elbo")
    left = model._engine.batches.rows("elbo")
    problem = "" if np.array_equal(found, expected) else "other bits"
    if not DRY and left == BULK:
        problem = "memory never ran out"
    yield report("memory", problem, rows=BULK, internal_batch=left)


def close_rows() -> Iterator[Row]:
    """Memory allocated before loading and after closing; once beforehand, for the libraries' workspaces."""
    sizes: list[list[int]] = []
    for _ in range(2):
        before = 0 if DRY else torch.cuda.memory_allocated()
        with vae(MODELS[0]) as model:
            results(model, data(MODELS[0], SIZES[-1]))
            loaded = 0 if DRY else torch.cuda.memory_allocated()
        gc.collect()
        sizes.append([before, loaded, 0 if DRY else torch.cuda.memory_allocated()])
    before, _, after = sizes[-1]
    yield report("close", f"{after - before} bytes are left" if after != before else "", bytes=sizes)


def compilations_rows() -> Iterator[Row]:
    """Kernels compiled for batch sizes that were never met, after warming up with the prepared ones: none."""
    model = vae(MODELS[0])
    model.warmup((1, 16, 256, 4096), ("generate", "encode", "reconstruct", "score"))
    results(model, data(MODELS[0], 3))
    results(model, data(MODELS[0], SIZES[-1] + 1))
    compiled: list[str] = []

    def hook(**what: Any) -> None:
        compiled.append(what["repr"][:200])

    knobs = triton.knobs.runtime
    knobs.jit_post_compile_hook, before = hook, knobs.jit_post_compile_hook
    try:
        for rows in SIZES:
            results(model, data(MODELS[0], rows))
    finally:
        knobs.jit_post_compile_hook = before
    yield report("compilations", compiled, sizes=list(SIZES), compiled=len(compiled))


def wall(call: Callable[[], Any], repetitions: int = REPETITIONS) -> dict[str, float]:
    """p20, p50 and p80 of a call's wall-clock time in microseconds, the device idle before and after."""
    times = []
    for k in range(repetitions + 3):
        if not DRY:
            torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        if not DRY:
            torch.cuda.synchronize()
        if k >= 3:
            times.append(1e6 * (time.perf_counter() - began))
    return dict(zip(("p20", "p50", "p80"), np.quantile(times, QUANTILES).tolist(), strict=True))


def timed(op: str, shape: str, calls: dict[str, Callable[[], Any]], repetitions: int = REPETITIONS) -> Row:
    """Wall-clock times of one thing done in several ways; "fastvae" is the way a user gets."""
    times = {way: wall(call, repetitions) for way, call in calls.items()}
    median = times["fastvae"]["p50"]
    ratio = {way: found["p50"] / median for way, found in times.items() if way != "fastvae"}
    row = {"section": "runtime", "op": op, "shape": shape, "precision": "ieee", "clock": "wall"}
    return {**row, "microseconds": times, "ratio": ratio, **machine()}


def latency_rows() -> Iterator[Row]:
    """One row through `encode`: on the device, and from NumPy to NumPy; with graphs and without."""
    graphed, plain = vae(MODELS[0]), vae(MODELS[0], graphs=False)
    x = data(MODELS[0], 1)
    on_device = torch.from_numpy(x).to(DEVICE)
    for kind, rows in (("numpy", x), ("device", on_device)):
        calls = {"fastvae": lambda r=rows: graphed.encode(r), "no graphs": lambda r=rows: plain.encode(r)}
        yield timed("vae.encode", f"1 row, {kind}", calls)
    with torch.no_grad():
        calls = {
            "fastvae": lambda: graphed._engine.encode(on_device),
            "no graphs": lambda: plain._engine.encode(on_device),
        }
        yield timed("engine.encode", "1 row, device", calls)


def bulk_rows() -> Iterator[Row]:
    """Many NumPy rows through `reconstruct`, with copies under way and waiting for each."""
    staged, direct = vae(MODELS[0]), vae(MODELS[0])
    direct._engine._resources.stages = Stages(None)
    x = data(MODELS[0], BULK)
    calls = {"fastvae": lambda: staged.reconstruct(x), "no overlap": lambda: direct.reconstruct(x)}
    yield timed("vae.reconstruct", f"{BULK} rows, numpy", calls, 3)
    wrong = not np.array_equal(staged.reconstruct(x), direct.reconstruct(x))
    yield report("staging", "other bits than without overlap" if wrong else "")


def cold_rows() -> Iterator[Row]:
    """Seconds from a fresh process to the first sample: with an empty Triton cache, and with a full one."""
    code = f"import fastvae; fastvae.load('digits', device={str(DEVICE)!r}).generate(1)"
    with tempfile.TemporaryDirectory() as cache:
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            environment = {**os.environ, "TRITON_CACHE_DIR": cache}
            subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=140, capture_output=True)
            seconds.append(time.perf_counter() - began)
    yield report("cold start", "", seconds={"empty cache": seconds[0], "full cache": seconds[1]})


def runtime() -> dict[str, Callable[[], Iterator[Row]]]:
    """Every section by name, in order of value."""
    return {
        "runtime:graphs": graphs_rows,
        "runtime:latency": latency_rows,
        "runtime:memory": memory_rows,
        "runtime:threads": threads_rows,
        "runtime:compilations": compilations_rows,
        "runtime:close": close_rows,
        "runtime:bulk": bulk_rows,
        "runtime:cold": cold_rows,
    }
