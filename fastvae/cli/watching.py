"""How far a bulk job is, as its command shows it: a bar on a terminal, plain lines elsewhere, or JSON."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from fastvae.bulk import Progress
from fastvae.cli.work import note
from fastvae.cli.workers import worker_lines

# Seconds between lines where there is no terminal.
PATIENCE = 5.0
# Events in which all bytes of files are gone through, and what that is.
BEFORE: Final = {
    "index": "counting rows of the input",
    "hash": "hashing the input",
    "recheck": "hashing shards that are there",
}


class Stopped:
    """Says once how a stopped job goes on: as soon as it stops, not when all of its workers, or a Ray, are gone."""

    def __init__(self, out: Path | str) -> None:
        self._out, self._said = out, False

    def say(self) -> None:
        """Say it, if it has not been."""
        if not self._said:
            self._said = True
            note(f"{self._out}: stopped; the same command goes on with what is there")


@contextmanager
def watching(
    out: Path | str, *, as_json: bool, title: str = "generate", what: str = "samples"
) -> Iterator[Callable[[Progress], None]]:
    """What shows a job's progress: JSON on stdout, a bar on a terminal, or else a line now and then.

    Its rows are called ``what``.
    """
    console = Console(stderr=True)
    if as_json:
        yield lambda state: print(json.dumps(dataclasses.asdict(state)), flush=True)
    elif console.is_terminal:
        with _bar(console, title, what, stays=True) as draw:
            yield draw
    else:
        yield _Lines(out, what)


@contextmanager
def looking(title: str, what: str) -> Iterator[Callable[[Progress], None]]:
    """What shows how far a look at rows called ``what`` is: a bar, which goes at the end, on a terminal alone."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console, title, what, stays=False) as draw:
            yield draw
    else:
        yield lambda state: None


@contextmanager
def _bar(console: Console, title: str, what: str, *, stays: bool) -> Iterator[Callable[[Progress], None]]:
    """What draws a bar, what it counts, and the workers."""
    bar = Bar(TextColumn(title), BarColumn(), TextColumn("{task.description}"))
    task = bar.add_task("", total=None)
    with Live(bar, console=console, transient=not stays) as live:

        def draw(state: Progress) -> None:
            done, total = (state.hashed, state.to_hash) if state.event in BEFORE else (state.samples, state.n)
            bar.update(task, total=total or None, completed=done, description=_figures(state, what))
            live.update(Group(bar, *map(Text, worker_lines(state.workers))))
            if state.message:
                live.console.print(state.message, markup=False, highlight=False)

        yield draw


class _Lines:
    """Prints a line at the start, when something happens, and every PATIENCE seconds."""

    def __init__(self, out: Path | str, what: str) -> None:
        self._out, self._what, self._next = out, what, 0.0

    def __call__(self, state: Progress) -> None:
        now = time.monotonic()
        if state.message:
            note(f"{self._out}: {state.message}")
        if state.event in (*BEFORE, "shard") and now >= self._next:
            self._next = now + PATIENCE
            note(f"{self._out}: {_figures(state, self._what)}")


def _figures(state: Progress, what: str) -> str:
    """Rows, which are called ``what``, shards, rate and what is left, in a few words."""
    if state.event in BEFORE:
        of_all = f"/{state.to_hash / 1e6:,.0f}" if state.to_hash else ""
        parts = [f"{BEFORE[state.event]}: {state.hashed / 1e6:,.0f}{of_all} MB"]
    else:
        parts = [f"{state.samples:,}/{state.n:,} {what}", f"{state.shards:,}/{state.of_shards:,} shards"]
    if state.rate:
        parts.append(f"{state.rate:,.0f} {what}/s")
    if state.eta:
        minutes, seconds = divmod(round(state.eta), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f"{hours}:{minutes:02}:{seconds:02} left")
    if state.failed:
        parts.append(f"{state.failed:,} failed")
    return ", ".join(parts)
