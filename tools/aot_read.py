"""What a compiled kernel says of itself: registers, spills, accesses and matrix instructions of cubins and amdgcn."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Reading", "parse_amdgcn", "parse_cubin", "read_cubin"]

_MATRIX_NAMES = r"HGMMA|QGMMA|HMMA|QMMA|UTCHMMA|UTCQMMA"
_AMD_BITS = {"byte": 8, "short": 16, "ushort": 16, "dword": 32, "dwordx2": 64, "dwordx3": 96, "dwordx4": 128}


@dataclass(frozen=True)
class Reading:
    """Figures of one compiled kernel.

    registers: per thread. spills: instructions that spill or reload. shared: bytes a program needs. load_bits: the
    narrowest of the copies to shared memory that a matrix product pipelines, or where there are none the widest
    load of global memory. store_bits: the widest store of it. matrix: matrix instructions by name.
    bulk: instructions of the tensor memory accelerator.
    """

    registers: int
    spills: int
    shared: int
    load_bits: int
    store_bits: int
    matrix: dict[str, int]
    bulk: int

    @property
    def matrix_count(self) -> int:
        """How many matrix instructions of any kind."""
        return sum(self.matrix.values())


def _counts(names: list[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names))}


def _access_bits(mnemonic: str, sass: str) -> list[int]:
    """The width of every access by `mnemonic`: its modifier that is a bare number, or 32 where it has none."""
    modifiers = re.findall(rf"\b{mnemonic}\.E((?:\.\w+)*)", sass)
    return [max(map(int, re.findall(r"\.[US]?(8|16|32|64|128|256)\b", each)), default=32) for each in modifiers]


def parse_cubin(usage: str, sass: str, shared: int) -> Reading:
    """usage and sass: what cuobjdump's --dump-resource-usage and --dump-sass print; shared: as Triton states it."""
    registers = re.search(r"\bREG:(\d+)", usage)
    assert registers, usage
    copies = _access_bits("LDGSTS", sass)
    return Reading(
        registers=int(registers[1]),
        spills=len(re.findall(r"\b(?:STL|LDL)\b", sass)),
        shared=shared,
        load_bits=min(copies) if copies else max(_access_bits("LDG", sass), default=0),
        store_bits=max(_access_bits("STG", sass), default=0),
        matrix=_counts(re.findall(rf"\b({_MATRIX_NAMES})\b", sass)),
        bulk=len(re.findall(r"\bUTMA(?:LDG|STG)\b", sass)),
    )


def parse_amdgcn(text: str, shared: int) -> Reading:
    """text: AMD's assembly with its metadata; shared: as Triton states it.

    Scalar registers that spill go to lanes of vector registers, not to memory, and are not counted.
    """

    def number(key: str) -> int:
        found = re.search(rf"\.{key}:\s+(\d+)", text)
        assert found, key
        return int(found[1])

    def widest(operation: str) -> int:
        names = re.findall(rf"\b(?:global|buffer)_{operation}_(\w+)", text)
        return max((_AMD_BITS.get(name.split("_")[0], 0) for name in names), default=0)

    return Reading(
        registers=number("vgpr_count"),
        spills=max(number("vgpr_spill_count"), number("private_segment_fixed_size") // 4),
        shared=shared,
        load_bits=widest("load"),
        store_bits=widest("store"),
        matrix=_counts(re.findall(r"\b(v_mfma_\w+)", text)),
        bulk=0,
    )


def read_cubin(cubin: bytes, shared: int, cuobjdump: Path) -> Reading:
    """A compiled kernel through the cuobjdump at this path."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run([cuobjdump, flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("--dump-resource-usage", "--dump-sass")
        )
    return parse_cubin(usage, sass, shared)
