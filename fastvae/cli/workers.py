"""What the workers of a bulk job are at, in lines for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from fastvae.bulk.progress import WorkerState

# Workers with a line of their own.
LINES: Final = 8


def worker_lines(workers: Sequence[WorkerState]) -> list[str]:
    """A line for each of the first workers, and one for the others together; none for a worker alone."""
    if len(workers) < 2:
        return []
    found = [_line(worker) for worker in workers[:LINES]]
    if rest := workers[LINES:]:
        counts = Counter(worker.state for worker in rest)
        states = ", ".join(f"{counts[state]:,} {state}" for state in ("working", "loading", "idle") if counts[state])
        found.append(f"{len(rest):,} more workers: {states}{_past(rest)}")
    return found


def _line(worker: WorkerState) -> str:
    shards = " and ".join(f"{shard:,}" for shard in worker.shards)
    at = f" on shard{'s' * (len(worker.shards) > 1)} {shards}" if shards else ""
    return f"worker {worker.number}: {worker.state}{at}{_past([worker])}"


def _past(workers: Sequence[WorkerState]) -> str:
    replaced = sum(worker.replaced for worker in workers)
    died = f", {replaced:,} died and {'was' if replaced == 1 else 'were'} replaced" if replaced else ""
    return f", {sum(worker.done for worker in workers):,} done{died}"
