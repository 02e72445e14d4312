"""python -m bench.overhead: what a call of an op costs in Python, up to its kernel's launch, beside F.linear.

The launch itself is replaced by nothing, so this runs without a GPU; tools/gpu_check.py measures whole calls on one,
beside a bare Triton launch. Each figure is the median over rounds in which all calls take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # lets the Triton implementations be called with CPU tensors

import torch
import torch.nn.functional as F

import fastvae_kernels as k
from fastvae_kernels.triton import bottleneck, gaussian_head, linear, linear_score, reparameterize, sample_normal

KERNELS = {
    bottleneck: "bottleneck_kernel",
    gaussian_head: "gaussian_head_kernel",
    linear: "linear_kernel",
    linear_score: "linear_score_kernel",
    reparameterize: "reparameterize_kernel",
    sample_normal: "sample_kernel",
}


class NoLaunch:
    """In place of a kernel: takes a grid and arguments and does nothing."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def calls() -> dict[str, Callable[[], Any]]:
    """One row through small layers."""
    x, w, b = torch.randn(1, 64), torch.randn(64, 64), torch.randn(64)
    return {
        "F.linear": lambda: F.linear(x, w, b),
        "linear": lambda: k.linear(x, w, b, activation="relu", impl="triton"),
        "linear_prior": lambda: k.linear_prior(1, w, b, seed=0, impl="triton"),
        "linear_score": lambda: k.linear_score(x, w, b, x, impl="triton"),
        "gaussian_head": lambda: k.gaussian_head(x, w, b, w, b, seed=0, impl="triton"),
        "bottleneck": lambda: k.bottleneck(x, w, b, w, b, w, b, seed=0, impl="triton"),
        "reparameterize": lambda: k.reparameterize(x, x, seed=0, impl="triton"),
        "sample_normal": lambda: k.sample_normal(1, 64, seed=0, impl="triton"),
    }


def microseconds(rounds: int, repetitions: int) -> dict[str, float]:
    """Median time of each call."""
    found: dict[str, list[float]] = {name: [] for name in calls()}
    for _ in range(rounds):
        for name, call in calls().items():
            began = time.perf_counter()
            for _ in range(repetitions):
                call()
            found[name].append(1e6 * (time.perf_counter() - began) / repetitions)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    """Print one line for each call, and a JSON line of them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repetitions", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for module, name in KERNELS.items():
        setattr(module, name, NoLaunch())
    times = microseconds(options.rounds, options.repetitions)
    for name, value in times.items():
        print(f"{name:16}{value:8.1f} µs{value / times['F.linear']:8.1f} x F.linear")
    print(json.dumps({"host_microseconds": {name: round(value, 2) for name, value in times.items()}}))


if __name__ == "__main__":
    main()
