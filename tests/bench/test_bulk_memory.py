"""``bench.bulk_memory``: peaks by tenths, and what a process holds."""

import os
import subprocess
import sys

from bench import bulk_memory
from bench.bulk_memory import Reading

MIB = 2**20


def test_peaks_and_growth() -> None:
    readings = [Reading(0, 900 * MIB, 800 * MIB)]
    readings += [Reading(samples, (100 + samples) * MIB, 50 * MIB) for samples in range(10, 101, 5)]
    row = bulk_memory.summary(readings, 100)
    assert row["driver_peak_mib"] == [900, 115, 125, 135, 145, 155, 165, 175, 185, 200]
    assert row["worker_peak_mib"] == [800, *[50] * 9]
    assert (row["driver_growth_mib"], row["worker_growth_mib"]) == (55, 0)


def test_memory_of_processes() -> None:
    code = "import sys; kept = bytearray(b'x') * 100_000_000; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert process.pid in bulk_memory.children(os.getpid())
        assert 100_000_000 < bulk_memory.resident(process.pid) < 200_000_000
        process.stdin.close()
    assert bulk_memory.resident(process.pid) == 0
