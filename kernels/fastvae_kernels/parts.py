"""What the GPUs that kernels are compiled for can do: limits that must hold, and rates that predictions use.

Rates are the makers' dense figures, except sm_90's product and copy rates, which are what an H200 was measured to
sustain; cache bandwidths are what the speed of published matrix kernels implies. All of them choose tiles and predict
times; results are only ever compared with roofs measured in the same run.
"""

from dataclasses import dataclass
from functools import cache

import torch

__all__ = ["PARTS", "Part", "part_of"]


@dataclass(frozen=True, eq=False)
class Part:
    """One architecture, by its best-known member.

    target: the compiler's name. processors: multiprocessors or compute units. shared_bytes: the most shared
    memory one program may have. copy_bandwidth: bytes per second to and from memory. cache_bandwidth: bytes per
    second from the L2 cache. flops: dense operations per second by precision; a precision it lacks is absent.
    """

    target: str
    name: str
    processors: int
    shared_bytes: int
    copy_bandwidth: float
    cache_bandwidth: float
    flops: dict[str, float]

    @property
    def has_tma(self) -> bool:
        """Whether it has NVIDIA's tensor memory accelerator."""
        return self.target in ("sm_90", "sm_100", "sm_120")


PARTS: dict[str, Part] = {
    part.target: part
    for part in (
        Part(
            "sm_80",
            "A100",
            108,
            166_912,
            1.9e12,
            5.0e12,
            {"ieee": 19.5e12, "tf32": 156e12, "bf16": 312e12, "fp16": 312e12},
        ),
        Part(
            "sm_90",
            "H100, H200",
            132,
            232_448,
            3.0e12,
            8.5e12,
            {"ieee": 60e12, "tf32": 395e12, "bf16": 790e12, "fp16": 790e12, "fp8": 1580e12},
        ),
        Part(
            "sm_100",
            "B200",
            148,
            232_448,
            8.0e12,
            10e12,
            {"ieee": 75e12, "tf32": 1100e12, "bf16": 2250e12, "fp16": 2250e12, "fp8": 4500e12},
        ),
        Part(
            "sm_120",
            "RTX 5090",
            170,
            101_376,
            1.79e12,
            5.5e12,
            {"ieee": 105e12, "tf32": 105e12, "bf16": 210e12, "fp16": 210e12, "fp8": 419e12},
        ),
        Part(
            "gfx942",
            "MI300X",
            304,
            65_536,
            5.3e12,
            17e12,
            {"ieee": 163e12, "tf32": 653e12, "bf16": 1307e12, "fp16": 1307e12},
        ),
    )
}
"""Every architecture that tools/aot.py compiles for, by target."""


@cache
def part_of(device: torch.device) -> Part:
    """The part that stands for a device: its own architecture's, the nearest older one's, or sm_90's on a CPU."""
    if device.type != "cuda":
        return PARTS["sm_90"]
    if torch.version.hip is not None:
        return PARTS["gfx942"]
    major, minor = torch.cuda.get_device_capability(device)
    known = [target for target in PARTS if target.startswith("sm_") and int(target[3:]) <= 10 * major + minor]
    return PARTS[known[-1] if known else "sm_80"]
