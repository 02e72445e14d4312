"""The one command for a machine with a GPU: is every op right there, and how fast is it against what else and the roof.

python tools/gpu_check.py [--out FOLDER] [--seconds 470] runs, in order of value: the conformance suite on the device;
compute-sanitizer's memcheck over the small cases, where that tool is installed; the roofs (copy bandwidth, a large
bf16 product); every kernel at the reference shapes; the runtime (graphs, threads, memory, latency; times are wall-clock
there); every verb of the reference model. Each measurement is a JSON line
appended to FOLDER/gpu.jsonl as it is made, with everything needed to repeat it; FOLDER/gpu.md is the table of the run.

Sections run in a process of their own, which is replaced if it crashes or hangs; what failed says so in its row, and
the rest goes on. --only takes sections by pattern ("kernel:*"), so that a long check can be cut in pieces. --dry-run
goes through all of it on a CPU, on tiny shapes under Triton's interpreter, and keeps no row. Needs torch, triton,
numpy, pytest and hypothesis, and installs nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "tools" / "gpu_sections.py"
SECTION_SECONDS = 150
Row = dict[str, Any]


def environment(dry_run: bool) -> dict[str, str]:
    """The environment of every process: the checkout's own packages first and, rehearsing, no GPU."""
    paths = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "PYTHONUNBUFFERED": "1"}
    return {**found, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""} if dry_run else found


def section_names(dry_run: bool) -> list[str]:
    """Every section that the worker runs, in order of value."""
    command = [sys.executable, str(WORKER), "--list"]
    listed = subprocess.run(command, env=environment(dry_run), capture_output=True, text=True, check=True)
    return listed.stdout.split()


def finished(command: list[str], section: str, dry_run: bool, seconds: float) -> Row:
    """The row of a command that either exits 0 or has failed, with the end of its output."""
    try:
        done = subprocess.run(
            command, env=environment(dry_run), cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as expired:
        tail = (expired.stdout or b"").decode(errors="replace")[-2000:]
        return {"section": section, "error": f"not done after {seconds:.0f} s", "tail": tail}
    row: Row = {"section": section, "summary": done.stdout.strip().splitlines()[-1:]}
    if done.returncode == 0:
        return row
    failures = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return {**row, "error": f"exit {done.returncode}", "failures": failures[:200], "tail": done.stdout[-4000:]}


def conformance(dry_run: bool, seconds: float) -> Row:
    """The kernels' own test-suite on this device, its failures by name."""
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", str(ROOT / "tests" / "kernels")]
    if dry_run:
        command += ["-k", "linear and 1x1x1"]
    elif importlib.util.find_spec("xdist"):
        command += ["-n", "12"]
    return finished(command, "conformance", dry_run, seconds)


def memcheck(dry_run: bool, seconds: float) -> Row:
    """One small case of every op under compute-sanitizer, or without it in a rehearsal."""
    command = [sys.executable, str(WORKER), "--small-cases"]
    if dry_run:
        return finished(command, "memcheck", dry_run, seconds)
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        return {"section": "memcheck", "skipped": "compute-sanitizer is not installed"}
    return finished([tool, "--tool", "memcheck", "--error-exitcode", "9", *command], "memcheck", dry_run, seconds)


class Worker:
    """A process that runs sections one after another and prints a JSON line for each row."""

    def __init__(self, sections: list[str], dry_run: bool) -> None:
        command = [sys.executable, str(WORKER), *sections]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            command, env=environment(dry_run), stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def kill(self) -> str:
        """Stop it, and give the end of what it wrote to its error stream."""
        self.process.kill()
        self.process.wait()
        self.errors.seek(0)
        with self.errors as file:
            return file.read()[-1500:]


def measured(sections: list[str], dry_run: bool, deadline: float) -> Iterator[Row]:
    """The rows of every section; a section that kills or stalls its process gets a row with the error."""
    waiting = list(sections)
    while waiting and time.monotonic() < deadline:
        worker = Worker(waiting, dry_run)
        while waiting:
            left = min(SECTION_SECONDS, deadline - time.monotonic())
            try:
                line = worker.lines.get(timeout=max(left, 0.1))
            except queue.Empty:
                line = None
            if line is None:
                break
            row = json.loads(line)
            if "finished" in row:
                waiting.remove(row["finished"])
            else:
                yield row
        tail = worker.kill()
        if waiting and time.monotonic() < deadline:
            yield {"section": waiting.pop(0), "error": "its process crashed or hung", "tail": tail}
    for name in waiting:
        yield {"section": name, "error": "out of time"}


def show(row: Row) -> None:
    """One line of progress."""
    if "microseconds" in row:
        ratios = ", ".join(f"{name} {value:.2f}x" for name, value in row["ratio"].items())
        time_ = row["microseconds"]["fastvae"]["p50"]
        share = row.get("share_of_roof")
        roof = f"{share:5.0%} of roof" if share is not None else ""
        print(f"{row['op']:18}{row['shape']:34}{row['precision']:6}{time_:9.1f} µs  {roof}  {ratios}", flush=True)
    else:
        print(json.dumps({name: value for name, value in row.items() if name != "tail"})[:400], flush=True)
        if "tail" in row:
            print(row["tail"], file=sys.stderr, flush=True)


def table(rows: list[Row]) -> str:
    """The measurements as Markdown."""
    peers = (
        "eager",
        "eager bf16",
        "eager ieee",
        "eager fp32",
        "eager upsampled",
        "torch.compile",
        "no graphs",
        "no overlap",
    )
    head = ["op", "shape", "precision", "µs (p50)", "predicted µs", "of roof", *peers]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        if "microseconds" not in row:
            continue
        cells = [row["op"], row["shape"], row["precision"], f"{row['microseconds']['fastvae']['p50']:.1f}"]
        cells.append(f"{row['predicted_microseconds']:.1f}" if row.get("predicted_microseconds") else "")
        cells.append(f"{row['share_of_roof']:.0%}" if row.get("share_of_roof") else "")
        cells += [f"{row['ratio'][peer]:.2f}x" if peer in row["ratio"] else "" for peer in peers]
        lines.append("| " + " | ".join(cells) + " |")
    failed = [f"- {row['section']} {row.get('op', '')}: {row['error']}" for row in rows if "error" in row]
    return "\n".join([*lines, *(["", "Failed:", *failed] if failed else [])]) + "\n"


def where() -> Row:
    """The commit and the machine, which every row carries."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {"commit": commit or "unknown", "python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}


def rows_of_run(names: list[str], dry_run: bool, seconds: float) -> Iterator[Row]:
    """Every row, in order of value."""
    deadline = time.monotonic() + seconds
    if "conformance" in names:
        yield conformance(dry_run, 0.45 * seconds)
    if "memcheck" in names:
        yield memcheck(dry_run, 0.15 * seconds)
    yield from measured([name for name in names if name not in ("conformance", "memcheck")], dry_run, deadline)


def main() -> int:
    """Check, then measure; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--seconds", type=float, default=470, help="start no section after this long")
    parser.add_argument("--only", action="append", help="sections to run, by pattern (may be repeated)")
    parser.add_argument("--dry-run", action="store_true", help="go through everything on a CPU; keeps no row")
    options = parser.parse_args()
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        print("no CUDA device; --dry-run goes through everything on the CPU", file=sys.stderr)
        return 1
    names = ["conformance", "memcheck", *section_names(options.dry_run)]
    names = [name for name in names if any(fnmatch(name, pattern) for pattern in options.only or ["*"])]
    rows: list[Row] = []
    common = where()
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "gpu.jsonl").open("a") if not options.dry_run else nullcontext() as file:
        for row in rows_of_run(names, options.dry_run, options.seconds):
            rows.append(row)
            show(row)
            if file is not None:
                file.write(json.dumps(common | row) + "\n")
                file.flush()
    print(table(rows))
    if not options.dry_run:
        (options.out / "gpu.md").write_text(table(rows))
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
