"""Interleaved timing: calls take turns, so that a machine that drifts slows all alike."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# A clock's own cost and resolution vanish in a sample this long; shorter calls are repeated to fill it.
SAMPLE_SECONDS = 200e-6
# Threads of a pool spin for a while after their last task, on cores that the next call needs.
SETTLE_SECONDS = 5e-3

Calls = Mapping[str, Callable[[], Any]]


def interleaved(
    calls: Calls, *, rounds: int, min_rounds: int, seconds: float, before: Callable[[], Any] = lambda: None
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Microseconds of one call, per round, and the calls of each sample; both by name.

    Every round takes one sample of each, and starts with another one than the round before. Where a sample of any of
    them is several calls, one that is not timed comes before each sample: the caches hold what the others left there.
    ``before`` is called ahead of
    each sample, untimed. Garbage is collected before the first round, not during it or later ones. Stops after
    ``rounds``, or ``seconds`` but not before ``min_rounds``.
    """
    repeats = {name: _repeats(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    # For all or none: of two that take about as long, one cold and one warm would be no comparison.
    warm = max(repeats.values()) > 1
    settle = torch.get_num_threads() > 1
    deadline = time.perf_counter() + seconds
    with _no_garbage_collection():
        for done in range(rounds):
            if done >= min_rounds and time.perf_counter() > deadline:
                break
            first = done % len(names)
            for name in names[first:] + names[:first]:
                before()
                if settle:
                    time.sleep(SETTLE_SECONDS)
                if warm:
                    calls[name]()
                times[name].append(1e6 * _seconds(calls[name], repeats[name]))
    return times, repeats


def _repeats(call: Callable[[], Any]) -> int:
    """Calls that fill a sample; a short call is tried again, in case the first was disturbed."""
    seconds = _seconds(call, 1)
    if seconds < 100 * SAMPLE_SECONDS:
        seconds = min(seconds, _seconds(call, 3))
    return max(1, math.ceil(SAMPLE_SECONDS / seconds))


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    """Mean time of one call."""
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def quantiles(values: list[float], digits: int) -> dict[str, float]:
    """p20, p50 and p80, rounded."""
    return {f"p{q}": round(float(np.percentile(values, q)), digits) for q in (20, 50, 80)}
