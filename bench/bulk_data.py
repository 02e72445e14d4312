"""Memory of a bulk job over a data set: the peak of ``encode`` for inputs of several sizes.

Run as ``python -m bench.bulk_data --megabytes 100 300 1000``, on Linux: each input, rows of 784 float32 numbers, is
written to a temporary folder and encoded by a process of its own, which reports the most memory it had resident
(``VmHWM``) before and after the job, and how many rows a second it went through. ``--group`` is the number of rows of a
row group of Parquet; 0 puts all of them in one. A row goes to ``bench/results/bulk_data.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import fastvae
from bench.bulk import bulk_spec
from bench.environment import OUT, environment
from bench.models import random_weights
from fastvae import bulk
from fastvae.model import Model
from fastvae.runtime import Settings

FEATURES = 784
BLOCK = 8192
KINDS = ("parquet", "npy", "csv")


def write_input(path: Path, rows: int, group: int) -> None:
    """So many rows of noise in [0, 1]: as lists in a Parquet file, an ``.npy`` array, or columns of a CSV file."""
    generator = np.random.default_rng(0)
    blocks = (generator.random((min(BLOCK, rows - low), FEATURES), np.float32) for low in range(0, rows, BLOCK))
    if path.suffix == ".parquet":
        write_parquet(path, blocks, group or rows)
    elif path.suffix == ".npy":
        array = np.lib.format.open_memmap(path, "w+", np.float32, (rows, FEATURES))
        for number, block in enumerate(blocks):
            array[number * BLOCK :][: len(block)] = block
        array.flush()
    else:
        with path.open("w") as file:
            print(*(f"x{i}" for i in range(FEATURES)), sep=",", file=file)
            for block in blocks:
                np.savetxt(file, block, "%.6f", ",")


def write_parquet(path: Path, blocks: Any, group: int) -> None:
    """Blocks of rows in row groups of ``group`` rows."""
    kind = pa.list_(pa.field("item", pa.float32()), FEATURES)
    with pq.ParquetWriter(path, pa.schema({"x": kind}), compression="none", use_dictionary=False) as writer:
        held: list[Any] = []
        for block in blocks:
            held.append(pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), type=kind))
            if sum(map(len, held)) >= group:
                writer.write_table(pa.table({"x": pa.chunked_array(held)}), row_group_size=group)
                held = []
        if held:
            writer.write_table(pa.table({"x": pa.chunked_array(held)}), row_group_size=group)


def resident() -> float:
    """The most memory this process has had resident, in MB; what getrusage says counts its parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 10**6


def job(path: Path, out: Path) -> dict[str, float]:
    """Encode an input in this process: memory before and after, and rows a second."""
    settings = Settings(device="cpu", threads=1, batch_invariant=True)
    vae = fastvae.VAE(Model(bulk_spec(), random_weights(bulk_spec())), settings)
    vae.embed(np.zeros((BLOCK, FEATURES), np.float32))
    before, begun = resident(), time.perf_counter()
    report = bulk.encode(vae, path, out, output="mean")
    seconds = time.perf_counter() - begun
    return {"before_mb": before, "peak_mb": resident(), "rows": report.n, "rows_per_second": report.n / seconds}


def measure(kind: str, megabytes: int, group: int, folder: Path | None) -> dict[str, Any]:
    """One input: what its process reports."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / f"input.{kind}"
        write_input(path, megabytes * 10**6 // (4 * FEATURES), group)
        command = [sys.executable, "-m", "bench.bulk_data", "--job", str(path), str(Path(name) / "out")]
        found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return {"megabytes": megabytes, "file_mb": path.stat().st_size / 10**6} | found


def main() -> None:
    """Measure, print and append one row."""
    parser = argparse.ArgumentParser(prog="python -m bench.bulk_data", description=__doc__)
    parser.add_argument("--megabytes", nargs="+", type=int, default=[10, 100, 300], help="of float32 numbers")
    parser.add_argument("--kind", choices=KINDS, default="parquet")
    parser.add_argument("--group", type=int, default=2**15, help="rows of a row group; 0: all in one")
    parser.add_argument("--folder", type=Path, default=None, help="where it writes; default: the system's for that")
    parser.add_argument("--out", type=Path, default=OUT / "bulk_data.jsonl", help="JSON lines to append to")
    parser.add_argument("--job", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(job(*options.job)))
        return
    found = [measure(options.kind, size, options.group, options.folder) for size in options.megabytes]
    for sizes in found:
        print(", ".join(f"{name} {value:,.0f}" for name, value in sizes.items()))
    case = {"kind": options.kind, "group": options.group, "features": FEATURES}
    with options.out.open("a") as file:
        file.write(json.dumps({**environment(), "study": "bulk_data", "case": case, "inputs": found}) + "\n")


if __name__ == "__main__":
    main()
