"""What tools/aot.py calls wrong with a build: absolute rules, and what became worse since the baseline."""

from __future__ import annotations

from typing import Any

from fastvae_kernels.parts import Part
from tools.aot_build import Build
from tools.aot_read import Reading

__all__ = ["figures", "matrix_name", "problems", "regressions"]


def matrix_name(target: str, precision: str) -> str:
    """The instruction, or its beginning, that a product of this precision must consist of."""
    eight_bits = precision == "fp8"
    names = {
        "sm_80": ("HMMA", "QMMA"),
        "sm_90": ("HGMMA", "QGMMA"),
        "sm_100": ("UTCHMMA", "UTCQMMA"),
        "sm_120": ("HMMA", "QMMA"),
        "gfx942": ("v_mfma", "v_mfma"),
    }
    return names[target][eight_bits]


def figures(reading: Reading) -> dict[str, int]:
    """What the baseline keeps of a build."""
    return {
        "registers": reading.registers,
        "shared": reading.shared,
        "matrix": reading.matrix_count,
        "load_bits": reading.load_bits,
        "store_bits": reading.store_bits,
    }


def problems(build: Build, reading: Reading, part: Part) -> list[str]:
    """Which of the rules that hold without a baseline this build breaks."""
    found = []
    if reading.spills:
        found.append(f"{reading.spills} spills")
    if reading.shared > part.shared_bytes:
        found.append(f"{reading.shared} bytes of shared memory; {part.name} has {part.shared_bytes}")
    if build.matrix:
        name = matrix_name(part.target, build.matrix)
        if not any(each.startswith(name) for each in reading.matrix):
            found.append(f"no {name}")
    if build.bulk and not reading.bulk:
        found.append("no bulk copies")
    if reading.load_bits < build.load_bits:
        found.append(f"promised {build.load_bits}-bit loads")
    if reading.store_bits < build.store_bits:
        found.append(f"promised {build.store_bits}-bit stores")
    return found


def regressions(key: str, reading: Reading, baseline: dict[str, dict[str, Any]]) -> list[str]:
    """How a build is worse than the baseline's of that key; registers may grow by 8 or by a tenth."""
    if key not in baseline:
        return [f"{key}: not in the baseline; look at its figures, then run tools/aot.py --write-baseline"]
    old, new = baseline[key], figures(reading)
    worse = [name for name in ("load_bits", "store_bits") if new[name] < old[name]]
    if new["registers"] > old["registers"] + max(8, old["registers"] / 10):
        worse.append("registers")
    if new["shared"] > old["shared"]:
        worse.append("shared")
    if old["matrix"] and not new["matrix"]:
        worse.append("matrix")
    return [f"{key}: {name} was {old[name]}, is {new[name]}" for name in worse]
