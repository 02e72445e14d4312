"""Compile every Triton kernel, as every shipped configuration launches it, for GPUs that are not here.

python tools/aot.py prints registers, spills, shared memory and the widest global load and store of each, and
exits 1 if a kernel does not compile, spills, or stores more narrowly than its configuration promises.
"""

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))
if os.environ.pop("TRITON_INTERPRET", "0") == "1":
    sys.exit("tools/aot.py compiles; run it without TRITON_INTERPRET")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastvae_kernels.triton.reparameterize import block_shape, reparameterize_kernel, row_unit
from fastvae_kernels.triton.sample_normal import sample_kernel
from fastvae_kernels.tuning import ReparameterizeConfig, SampleConfig, shipped_configs

TARGETS = {f"sm_{cc}": GPUTarget("cuda", cc, 32) for cc in (80, 90, 100, 120)}
TARGETS["gfx942"] = GPUTarget("hip", "gfx942", 64)
BITS = {"fp32": 32, "bf16": 16, "fp16": 16}
KERNELS = {"sample": sample_kernel, "reparameterize": reparameterize_kernel}


@dataclass(frozen=True)
class Build:
    """One kernel as one configuration launches it."""

    kernel: str
    device: str
    name: str
    pointers: dict[str, str]
    constants: dict[str, int | bool]
    num_warps: int
    promised_bits: int


@dataclass(frozen=True)
class Row:
    """What the compiler made of a build for one target; error is empty if it is as it should be."""

    target: str
    build: Build
    registers: int = 0
    spills: int = 0
    shared: int = 0
    load_bits: int = 0
    store_bits: int = 0
    seconds: float = 0.0
    error: str = ""


def sample_builds() -> Iterator[Build]:
    for device, config in shipped_configs("sample_normal").items():
        assert isinstance(config, SampleConfig)
        for dtype, bits in BITS.items():
            variants = [(False, True), (False, False)] + [(True, True)] * (dtype == "fp32")
            for uniform, aligned in variants:
                name = f"{'uniform' if uniform else 'normal'} {dtype} {'4|dim' if aligned else 'any dim'}"
                constants = {"UNIFORM": uniform, "ALIGNED": aligned, "BLOCK": config.block_quads}
                promised = config.store_bits * bits // 32 if aligned else 0
                pointers = {"out": f"*{dtype}"}
                yield Build("sample", device, name, pointers, constants, config.num_warps, promised)


def reparameterize_builds() -> Iterator[Build]:
    for device, config in shipped_configs("reparameterize").items():
        assert isinstance(config, ReparameterizeConfig)
        for dtype, bits in BITS.items():
            for dim in (256,) if dtype == "fp16" else (7, 20, 256):
                unit = row_unit(dim, dim)
                rows, dims = block_shape(dim, config)
                constants = {
                    "UNIT": unit,
                    "SAMPLES_PER_PROGRAM": config.samples_per_program,
                    "BLOCK_ROWS": rows,
                    "BLOCK_DIMS": dims,
                }
                promised = config.store_bits * bits // 32 if unit >= 4 else 0
                pointers = dict.fromkeys(("mean", "logvar", "z"), f"*{dtype}") | {"kl": "*fp32"}
                name = f"{dtype} dim {dim}"
                yield Build("reparameterize", device, name, pointers, constants, config.num_warps, promised)


def is_for(build: Build, target: str) -> bool:
    """Whether `target` might be launched so: the default on CUDA, "hip" or else the default on ROCm."""
    hip = TARGETS[target].backend == "hip"
    if build.device == "default":
        op = "sample_normal" if build.kernel == "sample" else build.kernel
        return not (hip and "hip" in shipped_configs(op))
    return (build.device == "hip") == hip


def compile_build(build: Build, target: str) -> "triton.compiler.CompiledKernel":
    kernel = KERNELS[build.kernel]
    signature = {}
    for parameter in kernel.params:
        kind = "constexpr" if parameter.is_constexpr else parameter.annotation_type
        signature[parameter.name] = build.pointers.get(parameter.name, kind)
    aligned = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in build.pointers}
    source = ASTSource(kernel, signature, build.constants, aligned)
    options = {"num_warps": build.num_warps, "enable_fp_fusion": True}
    return triton.compile(source, target=TARGETS[target], options=options)


def read_cubin(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        dumps = [
            subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("--dump-resource-usage", "--dump-sass")
        ]
    usage = dict(re.findall(r"\b(REG|SHARED):(\d+)", dumps[0]))

    def widest(mnemonic: str) -> int:
        found = re.findall(rf"\b{mnemonic}\.E((?:\.\w+)*)", dumps[1])
        return max((max(map(int, re.findall(r"\.[US]?(\d+)\b", s)), default=32) for s in found), default=0)

    return {
        "registers": int(usage["REG"]),
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", dumps[1])),
        "shared": int(usage["SHARED"]),
        "load_bits": widest("LDG"),
        "store_bits": widest("STG"),
    }


def read_amdgcn(text: str, shared: int) -> dict[str, int]:
    def number(key: str) -> int:
        return int(re.search(rf"\.{key}:\s+(\d+)", text)[1])

    widths = {"byte": 8, "short": 16, "ushort": 16, "dword": 32, "dwordx2": 64, "dwordx4": 128}

    def widest(operation: str) -> int:
        found = re.findall(rf"\b(?:global|buffer)_{operation}_(\w+)", text)
        return max((widths.get(name.split("_")[0], 0) for name in found), default=0)

    return {
        "registers": number("vgpr_count"),
        "spills": number("vgpr_spill_count") + number("sgpr_spill_count"),
        "shared": shared,
        "load_bits": widest("load"),
        "store_bits": widest("store"),
    }


def check(job: tuple[Build, str]) -> Row:
    """Compile and judge one build for one target."""
    build, target = job
    began = time.perf_counter()
    try:
        compiled = compile_build(build, target)
        if "cubin" in compiled.asm:
            read = read_cubin(compiled.asm["cubin"])
        else:
            read = read_amdgcn(compiled.asm["amdgcn"], compiled.metadata.shared)
    except Exception as error:  # whatever a compiler throws is the finding
        return Row(target, build, error=f"{type(error).__name__}: {error}")
    problems = []
    if read["spills"]:
        problems.append("spills")
    if read["store_bits"] < build.promised_bits:
        problems.append(f"promised {build.promised_bits}-bit stores")
    return Row(target, build, **read, seconds=time.perf_counter() - began, error=", ".join(problems))


def print_table(rows: list[Row]) -> None:
    columns = "{:<8}{:<16}{:<10}{:<22}{:>5}{:>8}{:>8}{:>7}{:>7}{:>7}  {}"
    print(columns.format("target", "kernel", "config", "build", "regs", "spills", "shared", "load", "store", "s", ""))
    for row in rows:
        names = (row.target, row.build.kernel, row.build.device, row.build.name)
        numbers = (row.registers, row.spills, row.shared, row.load_bits, row.store_bits)
        text = columns.format(*names, *numbers, f"{row.seconds:.1f}", row.error)
        print(text.rstrip())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one (may be repeated)")
    targets = parser.parse_args().target or list(TARGETS)
    builds = [*sample_builds(), *reparameterize_builds()]
    jobs = [(build, target) for target in targets for build in builds if is_for(build, target)]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        rows = pool.map(check, jobs, chunksize=4)
    print_table(rows)
    bad = [row for row in rows if row.error]
    print(f"{len(rows)} builds, {len(bad)} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
