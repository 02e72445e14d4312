"""Whether the memory of a bulk job stays flat: resident memory of its driver and workers while it runs.

Run as ``python -m bench.bulk_memory``, with ``--rows`` for fewer. The command line makes samples of the embedded digits
model as uint8 in ``.npy`` shards; the resident set size of its process and of the workers below it is read from /proc
twenty times a second. The row in ``bench/results/bulk.jsonl`` has the peaks in every tenth of the job, in MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.environment import OUT, environment

ROWS, SHARD, WORKERS = 10**7, 10**5, 2
INTERVAL = 0.05
PARTS = 10
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Reading:
    """Samples done, and bytes resident in the driver and in its largest worker (0 without one)."""

    samples: int
    driver: int
    worker: int


def resident(process: int) -> int:
    """Bytes of a process in memory; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def children(process: int) -> list[int]:
    """The processes that a process has started, on any of its threads."""
    found: list[int] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:
            continue
    return found


def measure(rows: int, shard: int, workers: int, folder: Path) -> list[Reading]:
    """Run the job, and read its memory until it ends."""
    arguments = ["-n", rows, "--out", f"{folder}/job", "--shards", "npy", "--dtype", "uint8", "--shard-size", shard]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "fastvae",
            "generate",
            "digits",
            *map(str, arguments),
            "--workers",
            str(workers),
            "--json",
        ],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    readings: list[Reading] = []
    samples, ended = 0, threading.Event()

    def read() -> None:
        while not ended.wait(INTERVAL):
            largest = max(map(resident, children(process.pid)), default=0)
            readings.append(Reading(samples, resident(process.pid), largest))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            samples = event["samples"]
    finally:
        ended.set()
        reader.join()
    if process.wait():
        raise RuntimeError(f"fastvae generate failed with status {process.returncode}")
    return readings


def summary(readings: Sequence[Reading], rows: int) -> dict[str, object]:
    """Peaks in each tenth of the job, and how much those of the second half exceed those of the first after its start.

    The first tenth, in which models are loaded, does not count.
    """
    parts: list[list[Reading]] = [[] for _ in range(PARTS)]
    for reading in readings:
        parts[min(PARTS - 1, reading.samples * PARTS // rows)].append(reading)
    drivers, workers = (
        [round(max((getattr(reading, name) for reading in part), default=0) / 2**20, 1) for part in parts]
        for name in ("driver", "worker")
    )
    half = PARTS // 2
    growth = [max(peaks[half:]) - max(peaks[1:half]) for peaks in (drivers, workers)]
    return {
        "driver_peak_mib": drivers,
        "worker_peak_mib": workers,
        "driver_growth_mib": round(growth[0], 1),
        "worker_growth_mib": round(growth[1], 1),
    }


def main() -> None:
    """Measure, print and append one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--shard-size", type=int, default=SHARD)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the job writes; default: the system's for that"
    )
    parser.add_argument("--out", type=Path, default=OUT / "bulk.jsonl")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        readings = measure(options.rows, options.shard_size, options.workers, Path(folder))
    row = environment() | {
        "study": "bulk memory",
        "rows": options.rows,
        "shard_size": options.shard_size,
        "workers": options.workers,
        **summary(readings, options.rows),
    }
    with options.out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
