"""How fast a device could run a plan's steps: rates by a GPU's name, or measured on this CPU on the spot."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

import fastvae_kernels
from fastvae.errors import InputError, UnsupportedError
from fastvae_kernels.parts import PARTS, Part

# From one kernel of a stream to the next, if they are captured in a graph or queued ahead.
LAUNCH_SECONDS = 2e-6
# Of numbers between steps; where some are of 8 bits, plans say which.
ELEMENT_BYTES = {"ieee": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 2, "float64": 8}


@dataclass(frozen=True)
class Roofs:
    """What a device gives at best: ``flops`` and ``bandwidth`` per second, and the seconds any step takes at least.

    ``part`` is the GPU in the kernels' tables; None for a CPU, whose figures are measured, with ``name`` saying so.
    """

    name: str
    flops: float
    bandwidth: float
    launch: float
    part: Part | None

    def at(self, precision: str) -> Roofs:
        """These in a precision that the GPU has; a CPU computes all of them in the one that was measured."""
        return self if self.part is None else replace(self, flops=self.part.flops[precision])


def roofs(device_name: str, precision: str) -> Roofs:
    """The roofs of ``cpu``, or of a GPU by any name it has in `fastvae_kernels.parts`, such as ``H100`` or ``sm_90``.

    Raises:
        InputError: an unknown device.
        UnsupportedError: the device has no rate for ``precision``, one of ELEMENT_BYTES.
    """
    if device_name.lower() == "cpu":
        return _measured(torch.float64 if precision == "float64" else torch.float32)
    names = {name.lower(): part for part in PARTS.values() for name in (part.target, *part.name.split(", "))}
    part = names.get(device_name.lower())
    if part is None:
        known = ", ".join(f"{part.name} ({part.target})" for part in PARTS.values())
        raise InputError(f"device: expected cpu or one of {known}, got {device_name!r}")
    if precision not in part.flops:
        found = ", ".join(name for name in part.flops if name in ELEMENT_BYTES)
        raise UnsupportedError(f"precision: {part.name} has rates for {found}, not for {precision!r}")
    return Roofs(f"{part.name} ({part.target})", part.flops[precision], part.copy_bandwidth, LAUNCH_SECONDS, part)


def _measured(dtype: torch.dtype) -> Roofs:
    """The roofs of this CPU with the threads PyTorch uses: a product of 512, a copy of 16 MiB, an op on one number."""
    size = 512
    a, b, c = (torch.ones(size, size, dtype=dtype) for _ in range(3))
    source, target = (torch.ones(16 * 2**20 // dtype.itemsize, dtype=dtype) for _ in range(2))
    one = torch.ones(1, 1, dtype=dtype)
    product = _best_seconds(lambda: torch.mm(a, b, out=c))
    copy = _best_seconds(lambda: target.copy_(source))
    launch = _best_seconds(lambda: fastvae_kernels.linear(one, one, impl="reference"))
    name = f"this CPU, {torch.get_num_threads()} threads, measured"
    return Roofs(name, 2 * size**3 / product, 2 * source.numel() * dtype.itemsize / copy, launch, None)


def _best_seconds(work: Callable[[], object], budget: float = 0.1) -> float:
    """The shortest of a few runs, at least two, within about ``budget`` seconds."""
    work()
    best, end = float("inf"), time.perf_counter() + budget
    for _ in range(30):
        begun = time.perf_counter()
        work()
        now = time.perf_counter()
        best = min(best, now - begun)
        if now > end:
            break
    return best
