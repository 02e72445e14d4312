"""Verify, then time: whatever does not compute what eager PyTorch does is not timed.

Run as ``python -m bench``. All peers take turns, sample by sample (see :mod:`bench.timing`); a ratio is the median
over rounds of a peer's time over fastvae's in the same round, so above 1 fastvae is faster. Each case is one JSON line
that says when, where and with which versions it was measured; Ctrl-C keeps the lines written, and ``--resume`` goes on.
``python -m bench.report`` turns them into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench.cases import ALL_VERBS, ROWS, VERBS, Case, cases, peak_bytes
from bench.environment import OUT, environment
from bench.models import MODELS
from bench.peers import BASELINE, BUDGET, OURS, PEERS, distance
from bench.prepared import AbsentError, Call, Peer
from bench.timing import interleaved, quantiles
from bench.torch_peers import forget_compiled

# Beyond these rows, a case's time is estimated from this many times fewer before it is begun.
ESTIMATE_BEYOND, FEWER = 256, 16
UNTIMED_CALLS = 2  # one to check, one to see how long a call is

AnyCase = TypeVar("AnyCase")


@dataclass(frozen=True)
class Effort:
    """How long to measure, at most and at least, and what not to begin: most seconds and GiB of a case."""

    rounds: int = 200
    min_rounds: int = 5
    seconds: float = 3.0
    max_seconds: float = 300.0
    max_gib: float = 12.0


def skip_reason(case: Case, effort: Effort, peers: Collection[str]) -> str | None:
    """Why ``case`` is not begun, if it is not: its memory, or its least time, by eager PyTorch on fewer rows."""
    gib = peak_bytes(case) / 2**30
    if gib > effort.max_gib:
        return f"an estimated {gib:.0f} GiB, over {effort.max_gib:g}"
    if case.rows <= ESTIMATE_BEYOND:
        return None
    small = PEERS[BASELINE](Case(case.model, case.verb, case.rows // FEWER)).call
    small()
    begin = time.perf_counter()
    small()
    seconds = (time.perf_counter() - begin) * FEWER * len(peers) * (effort.min_rounds + UNTIMED_CALLS)
    if seconds > effort.max_seconds:
        return f"an estimated {seconds:.0f} s at least, over {effort.max_seconds:g}"
    return None


def prepare(
    case: Any, peers: Collection[str], table: Mapping[str, Peer] = PEERS, budget: float = BUDGET
) -> tuple[dict[str, Call], dict[str, Any]]:
    """The call to time of every peer in ``table`` whose result is right, and what to say about each.

    Raises:
        AssertionError: fastvae's result is not eager PyTorch's.
    """
    forget_compiled()
    # For ``generate``, eager PyTorch decodes the noise that fastvae draws.
    expected = table[BASELINE](case).check()
    calls: dict[str, Call] = {}
    absent: dict[str, str] = {}
    differences: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for name in peers:
        begin = time.perf_counter()
        try:
            prepared = table[name](case)
            found = prepared.check()
        except AbsentError as error:
            absent[name] = str(error)
            continue
        seconds[name] = round(time.perf_counter() - begin, 2)
        differences[name] = distance(found, expected)
        if differences[name] < budget:
            calls[name] = prepared.call
            continue
        absent[name] = f"differs from eager PyTorch by {differences[name]:.1e} of the largest value"
        if name == OURS:
            raise AssertionError(f"{case}: {OURS} {absent[name]}")
    return calls, {"differences": differences, "absent": absent, "prepare_seconds": seconds}


def measure(case: Case, effort: Effort, peers: Collection[str] = tuple(PEERS)) -> dict[str, Any]:
    """One row: microseconds of each peer on ``case`` and their ratios to fastvae's, each p20, p50 and p80.

    ``absent`` says of each peer that was not timed why. A case that is not begun has ``skipped`` instead of all that.

    Raises:
        AssertionError: fastvae's result is not eager PyTorch's; nothing is timed.
    """
    row: dict[str, Any] = {"case": asdict(case)}
    if reason := skip_reason(case, effort, peers):
        return row | {"skipped": reason}
    calls, notes = prepare(case, peers)
    return row | notes | timed(calls, effort)


def timed(calls: Mapping[str, Call], effort: Effort) -> dict[str, Any]:
    """What a row says of the times of ``calls``."""
    times, repeats = interleaved(calls, rounds=effort.rounds, min_rounds=effort.min_rounds, seconds=effort.seconds)
    ratios = {
        name: quantiles([theirs / ours for theirs, ours in zip(values, times[OURS], strict=True)], 3)
        for name, values in times.items()
        if name != OURS
    }
    microseconds = {name: quantiles(values, 1) for name, values in times.items()}
    return {"rounds": len(times[OURS]), "calls": repeats, "microseconds": microseconds, "ratios": ratios}


def measured(out: Path, where: dict[str, Any], kind: Callable[..., AnyCase] = Case) -> set[AnyCase]:
    """Cases that ``out`` has a row of, measured or skipped, by the same commit on the same device and threads."""
    rows = map(json.loads, out.read_text().splitlines()) if out.exists() else ()
    return {
        kind(**row["case"])
        for row in rows
        if "case" in row and all(row[key] == where[key] for key in ("commit", "device"))
    }


def run(
    selected: Collection[AnyCase],
    out: Path,
    measure_case: Callable[[AnyCase], dict[str, Any]],
    *,
    kind: Callable[..., AnyCase] = Case,
    resume: bool = False,
) -> None:
    """Measure the cases, of one ``kind``, one by one, printing each and appending it to ``out`` as a JSON line."""
    where = environment()
    done = measured(out, where, kind) if resume else set()
    out.parent.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(selected, start=1):
        if case in done:
            continue
        row = where | measure_case(case)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{number}/{len(selected)} {case!s:26}{_summary(row)}", flush=True)


def _summary(row: dict[str, Any]) -> str:
    """A row in a line: fastvae's time, and the ratio of each other."""
    if "skipped" in row:
        return f"skipped: {row['skipped']}"
    ratios = "".join(f"{name} {ratio['p50']:.2f}  " for name, ratio in row["ratios"].items())
    return f"{row['microseconds'][OURS]['p50']:>13,.1f} µs   {ratios}"


def main(arguments: list[str] | None = None) -> int:
    """The command line of ``python -m bench``; 130 if it was interrupted."""
    effort = Effort()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--verbs", nargs="+", choices=ALL_VERBS, default=VERBS)
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    parser.add_argument("--peers", nargs="+", choices=[*PEERS], default=[*PEERS], help=f"{OURS} always takes part")
    add_options(parser, effort, OUT / "peers.jsonl")
    parser.add_argument("--max-seconds", type=float, default=effort.max_seconds, help="skip cases that take longer")
    parser.add_argument("--max-gib", type=float, default=effort.max_gib, help="skip cases that need more memory")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    effort = Effort(**{field.name: getattr(options, field.name) for field in fields(Effort)})
    peers = dict.fromkeys((OURS, *options.peers))
    selected = cases(options.models, options.verbs, options.rows)
    return finish(
        lambda: run(selected, options.out, lambda case: measure(case, effort, tuple(peers)), resume=options.resume),
        options.out,
    )


def add_options(parser: argparse.ArgumentParser, effort: Effort, out: Path) -> None:
    """What every comparison of peers is asked: ``effort`` and ``out`` are the defaults."""
    parser.add_argument("--threads", type=int, default=1, help="threads of each peer; 1 is steadiest on a busy machine")
    parser.add_argument("--rounds", type=int, default=effort.rounds, help="rounds of each case at most")
    parser.add_argument("--min-rounds", type=int, default=effort.min_rounds, help="rounds however long they take")
    parser.add_argument("--seconds", type=float, default=effort.seconds, help="time for them")
    parser.add_argument("--out", type=Path, default=out, help="JSON lines to append to")
    parser.add_argument("--resume", action="store_true", help="leave out the cases that --out has, of this commit")


def finish(comparison: Callable[[], None], out: Path) -> int:
    """Run it; its exit status, 130 if it was interrupted."""
    try:
        comparison()
    except KeyboardInterrupt:
        print(f"Interrupted. Rows so far are in {out}; --resume goes on from there.")
        return 130
    return 0
