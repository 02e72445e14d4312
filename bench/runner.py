"""Verify, then time: every case is checked against eager PyTorch before a clock starts, and timed in turn with it.

Run as ``python -m bench``. Peers alternate call by call, so that a drifting machine slows both alike; the ratio is
the median of the pairs' ratios. A row says when, where and with which versions it was measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastvae
from bench.cases import MODELS, ROWS, Case, cases
from bench.peers import BASELINE, PEERS, verify

OUT = Path("bench/results")


def measure(case: Case, *, pairs: int, seconds: float) -> dict[str, Any]:
    """Times of every peer on ``case`` in microseconds (p20, p50, p80) and the ratio of eager to fastvae.

    Stops after ``pairs`` rounds or ``seconds``, but not before five rounds.

    Raises:
        AssertionError: fastvae's result is not eager's; nothing is timed.
    """
    calls = {name: peer(case) for name, peer in PEERS.items()}
    distance = verify(case, calls["fastvae"]())
    calls[BASELINE]()
    times: dict[str, list[float]] = {name: [] for name in calls}
    deadline = time.perf_counter() + seconds
    for done in range(pairs):
        if done >= 5 and time.perf_counter() > deadline:
            break
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - begin) * 1e6)
    ratio = statistics.median(b / a for a, b in zip(times["fastvae"], times[BASELINE], strict=True))
    return {
        "case": {"model": case.model, "verb": case.verb, "rows": case.rows},
        "pairs": len(times[BASELINE]),
        "difference": distance,
        "microseconds": {name: _quantiles(values) for name, values in times.items()},
        "ratio": round(ratio, 3),
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 1) for q in (20, 50, 80)}


def environment() -> dict[str, Any]:
    """Where a row was measured: commit, processor, threads, versions."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "commit": commit or "unknown",
        "device": f"{_processor()}, {torch.get_num_threads()} threads",
        "versions": {
            "fastvae": fastvae.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "dtype": "float32",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def run(selected: Iterable[Case], out: Path, *, pairs: int, seconds: float) -> None:
    """Measure the cases one by one, printing each and appending it to ``out`` as a JSON line."""
    where = environment()
    out.parent.mkdir(parents=True, exist_ok=True)
    print(f"{'case':32}{'fastvae p50':>14}{'eager p50':>14}{'eager / fastvae':>17}")
    for case in selected:
        row = where | measure(case, pairs=pairs, seconds=seconds)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        medians = [row["microseconds"][name]["p50"] for name in ("fastvae", BASELINE)]
        print(f"{case!s:32}{medians[0]:>11,.0f} µs{medians[1]:>11,.0f} µs{row['ratio']:>17.2f}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line of ``python -m bench``."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    parser.add_argument("--threads", type=int, default=1, help="threads; 1 is steadiest on a shared machine")
    parser.add_argument("--pairs", type=int, default=200, help="rounds of each case at most")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each case, beyond five rounds")
    parser.add_argument("--out", type=Path, default=OUT / "cpu.jsonl", help="JSON lines to append to")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    selected = cases(tuple(options.models), tuple(options.rows))
    run(selected, options.out, pairs=options.pairs, seconds=options.seconds)
    return 0
