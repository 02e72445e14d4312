"""How the sections of tools/gpu_check.py time and judge one piece of work, on a GPU or, rehearsing, on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from fastvae_kernels.parts import PARTS, part_of

DRY = not torch.cuda.is_available()
DEVICE = torch.device("cpu" if DRY else "cuda")
QUANTILES = (0.2, 0.5, 0.8)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "ieee": torch.float32}
LARGEST_ERROR = {"bf16": 1e-2, "fp16": 2e-3, "tf32": 2e-3, "ieee": 1e-5, "fp8": 1e-2}
"""‖out - reference‖ / ‖reference‖ that no right kernel exceeds: what is timed has been checked against it."""

Call = Callable[[], Any]


@dataclass(frozen=True)
class Work:
    """One thing to measure.

    run: the fused op or verb. peers: what else does the same. check: pairs of what `run` gave and what it should
    have been. flops and bytes: what must be done at least. predicted_seconds: by the model that chose the tiles.
    """

    op: str
    shape: str
    precision: str
    run: Call
    peers: dict[str, Call]
    check: Callable[[], list[tuple[Tensor, Tensor]]]
    flops: int
    bytes: int
    predicted_seconds: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


def microseconds(call: Call, repetitions: int = 200) -> dict[str, float]:
    """p20, p50 and p80 of a call's device time, the L2 cache cleared before each; one wall-clock time on a CPU."""
    if DRY:
        began = time.perf_counter()
        call()
        times = [1e6 * (time.perf_counter() - began)] * 3
    else:
        found = triton.testing.do_bench(call, warmup=25, rep=repetitions, quantiles=list(QUANTILES))
        times = [1e3 * value for value in found]
    return dict(zip(("p20", "p50", "p80"), times, strict=True))


def graphed(call: Call) -> Call:
    """The same work as the replay of a CUDA graph, so that the host's part does not show."""
    if DRY:
        return call
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


@cache
def roofs() -> dict[str, float]:
    """Copy bandwidth in bytes per second, read plus written, and the rate of a large bf16 product."""
    if DRY:
        return {"copy_bytes_per_second": 1e10, "bf16_flops_per_second": 1e11}
    source = torch.randn(2**28, device=DEVICE)
    target = torch.empty_like(source)
    copy = microseconds(lambda: target.copy_(source))["p50"]
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    product = microseconds(lambda: a @ b)["p50"]
    return {
        "copy_bytes_per_second": 2 * source.nbytes / (copy * 1e-6),
        "bf16_flops_per_second": 2 * 8192**3 / (product * 1e-6),
    }


def roof_seconds(work: Work) -> float:
    """The longer of the traffic at the measured bandwidth and the arithmetic at the measured rate.

    Other precisions than 16 bits have the share of the bf16 rate that the part's makers give them.
    """
    flops = part_of(DEVICE).flops
    rate = roofs()["bf16_flops_per_second"] * flops.get(work.precision, flops["bf16"]) / flops["bf16"]
    return max(work.bytes / roofs()["copy_bytes_per_second"], work.flops / rate)


def relative_error(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """The largest ‖out - reference‖ / ‖reference‖; NaN if anything is."""
    errors = [((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item() for a, b in pairs]
    return max(errors) if all(e == e for e in errors) else float("nan")


def row_of(section: str, work: Work) -> dict[str, Any]:
    """Check the work, then time it and its peers in one run; a wrong result is not timed."""
    row: dict[str, Any] = {"section": section, "op": work.op, "shape": work.shape, "precision": work.precision}
    row |= {"error_norm": relative_error(work.check()), **work.details, **machine()}
    if not row["error_norm"] <= LARGEST_ERROR[work.precision]:
        return {**row, "error": f"off by {row['error_norm']:.2e} of the reference"}
    times = {"fastvae": microseconds(work.run)}
    failures = {}
    for name, peer in work.peers.items():
        try:
            times[name] = microseconds(peer)
        except Exception as error:  # a peer that cannot run must not cost the others' times
            failures[name] = f"{type(error).__name__}: {error}"[:300]
    median = times["fastvae"]["p50"]
    return {
        **row,
        "microseconds": times,
        "ratio": {name: t["p50"] / median for name, t in times.items() if name != "fastvae"},
        "peer_errors": failures,
        "flops": work.flops,
        "bytes": work.bytes,
        "share_of_roof": roof_seconds(work) / (median * 1e-6),
        "predicted_microseconds": work.predicted_seconds and 1e6 * work.predicted_seconds,
    }


def machine() -> dict[str, Any]:
    """The device, its roofs and the versions."""
    name = "CPU, rehearsing" if DRY else torch.cuda.get_device_name()
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    return {
        "device": name,
        "part": part_of(DEVICE).target if not DRY else PARTS["sm_90"].target,
        **roofs(),
        "versions": versions,
    }
