"""Compile every Triton kernel, as every shipped configuration launches it, for GPUs that are not here.

python tools/aot.py prints registers, spills, shared memory, matrix instructions and the widths of global loads and
stores of each build, and exits 1 if a kernel does not compile, spills, needs more shared memory than the part has,
multiplies without the part's matrix unit, reads or writes more narrowly than promised, or has become worse than
tools/aot_baseline.json says. --write-baseline files the figures there. --all also compiles what is left out every day.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastvae_kernels.parts import PARTS
from tools.aot_build import Build
from tools.aot_builds import all_builds
from tools.aot_read import Reading, parse_amdgcn, read_cubin
from tools.aot_rules import figures, problems, regressions

BASELINE = Path(__file__).with_name("aot_baseline.json")
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Row:
    """What the compiler made of a build; errors is empty if that is as it should be."""

    build: Build
    reading: Reading | None
    seconds: float
    errors: tuple[str, ...]


def gpu_target(target: str) -> GPUTarget:
    """The compiler's own name of a target."""
    return GPUTarget("cuda", int(target[3:]), 32) if target.startswith("sm_") else GPUTarget("hip", target, 64)


def compile_build(build: Build) -> triton.compiler.CompiledKernel:
    module, name = build.kernel.split(".")
    kernel = getattr(importlib.import_module(f"fastvae_kernels.triton.{module}"), name)
    signature, constants = {}, dict(build.constants)
    unknown = (build.arguments.keys() | constants.keys()) - set(kernel.arg_names)
    if unknown:
        raise TypeError(f"{name} has no parameter {', '.join(sorted(unknown))}")
    for parameter in kernel.params:
        kind = "constexpr" if parameter.is_constexpr else parameter.annotation_type
        if parameter.name in build.arguments:
            kind = build.arguments[parameter.name]
            if kind is None:
                kind, constants[parameter.name] = "constexpr", None
        signature[parameter.name] = kind
    aligned = {
        (kernel.arg_names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind.startswith("*")
    }
    options = {"num_warps": build.num_warps, "enable_fp_fusion": True}
    if build.num_stages is not None:
        options["num_stages"] = build.num_stages
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=gpu_target(build.target), options=options)


def check(build: Build) -> Row:
    """Compile and judge one build."""
    began = time.perf_counter()
    try:
        compiled = compile_build(build)
        shared = compiled.metadata.shared
        if "cubin" in compiled.asm:
            reading = read_cubin(compiled.asm["cubin"], shared, CUOBJDUMP)
        else:
            reading = parse_amdgcn(compiled.asm["amdgcn"], shared)
    except Exception as error:  # whatever a compiler throws is the finding
        return Row(build, None, time.perf_counter() - began, (f"{type(error).__name__}: {error}",))
    wrong = problems(build, reading, PARTS[build.target])
    return Row(build, reading, time.perf_counter() - began, tuple(wrong))


COLUMNS = "{:<7}{:<15}{:<62}{:>5}{:>7}{:>8}{:>7}{:>5}{:>6}{:>6}  {}"


def print_head() -> None:
    titles = ("target", "kernel", "build", "regs", "spills", "shared", "matrix", "load", "store", "s", "")
    print(COLUMNS.format(*titles).rstrip())


def print_row(row: Row) -> None:
    numbers = ["-"] * 6
    if row.reading:
        numbers = [str(value) for value in (*figures(row.reading).values(), row.reading.spills)]
    registers, shared, matrix, load, store, spills = numbers
    cells = (registers, spills, shared, matrix, load, store, f"{row.seconds:.1f}", "; ".join(row.errors))
    kernel = row.build.kernel.split(".")[1].removesuffix("_kernel")
    print(COLUMNS.format(row.build.target, kernel, row.build.name, *cells).rstrip(), flush=True)


def chosen(targets: list[str], kernel: str, every: bool) -> list[Build]:
    """What to compile; prints how many builds are left out, by reason."""
    found = [build for target in targets for build in all_builds(target) if kernel in build.kernel]
    names = Counter(build.key for build in found)
    assert max(names.values(), default=1) == 1, names.most_common(1)
    left_out = Counter(build.impossible or ("" if every else build.extra) for build in found)
    for reason, count in sorted(left_out.items()):
        if reason:
            print(f"left out {count}: {reason}")
    return [build for build in found if not build.impossible and (every or not build.extra)]


def baseline() -> dict[str, Any]:
    """The committed figures of every build, and the version of triton that made them."""
    table: dict[str, Any] = json.loads(BASELINE.read_text(encoding="utf-8"))
    return table


def compared(rows: list[Row]) -> list[str]:
    """How rows are worse than the baseline, and which it lacks."""
    old = baseline()
    if old["triton"] != triton.__version__:
        print(f"baseline of triton {old['triton']} not compared: this is {triton.__version__}")
        return []
    return [line for row in rows if row.reading for line in regressions(row.build.key, row.reading, old["builds"])]


def write_baseline(rows: list[Row]) -> None:
    """File the figures of what was compiled, keep this compiler's of the other builds that there are, drop the rest."""
    known = {build.key for target in PARTS for build in all_builds(target) if not build.impossible}
    old = baseline()
    kept = old["builds"] if old["triton"] == triton.__version__ else {}
    builds = {key: value for key, value in kept.items() if key in known}
    builds |= {row.build.key: figures(row.reading) for row in rows if row.reading}
    lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(builds[key])}" for key in sorted(builds))
    head = f'{{\n  "triton": {json.dumps(triton.__version__)},\n  "builds": {{\n'
    BASELINE.write_text(f"{head}{lines}\n  }}\n}}\n", encoding="utf-8")


def main() -> int:
    """Compile, print, judge; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=PARTS, action="append", help="only this one (may be repeated)")
    parser.add_argument("--kernel", default="", help="only kernels whose name contains this")
    parser.add_argument("--all", action="store_true", help="also what is left out every day")
    parser.add_argument("--write-baseline", action="store_true", help="file the figures of what is compiled")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        parser.error("kernels under TRITON_INTERPRET=1 are interpreted, not compiled")
    builds = chosen(options.target or list(PARTS), options.kernel, options.all or options.write_baseline)
    began = time.perf_counter()
    rows = []
    print_head()
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for row in pool.imap(check, builds):
            print_row(row)
            rows.append(row)
    bad = [row for row in rows if row.errors]
    worse = [] if options.write_baseline else compared(rows)
    if options.write_baseline:
        write_baseline(rows)
    print("\n".join(worse))
    print(f"{len(rows)} builds, {len(bad)} bad, {len(worse)} against the baseline, {time.perf_counter() - began:.0f} s")
    return 1 if bad or worse else 0


if __name__ == "__main__":
    sys.exit(main())
