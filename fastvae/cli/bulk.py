"""Bulk jobs: ``generate``, ``encode``, ``reconstruct`` and ``score`` into a folder, and ``verify``."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text
from typer import Argument, Option

import fastvae
from fastvae import bulk
from fastvae.bulk.job import Job
from fastvae.bulk.opening import folder_path, is_url, open_folder
from fastvae.cli.options import (
    MODEL,
    ConditionText,
    DataOptions,
    ModelOptions,
    OutTarget,
    RunOptions,
    Seed,
    command,
)
from fastvae.cli.work import note, progress, read_condition
from fastvae.cli.workers import worker_lines
from fastvae.errors import IncompleteJobError, InputError

FOLDERS = "Writing a folder of shards"
NOT_ALL = 1
# What --ray without an address means; no address begins like this.
ANY_RAY = ":any"
# Between lines where there is no terminal.
PATIENCE = 5.0


@dataclass(frozen=True)
class BulkOptions:
    """How a folder of shards is written."""

    shards: Annotated[
        str | None,
        Option(help="Files: parquet (default), parquet-bytes, npy, zarr, webdataset or png.", rich_help_panel=FOLDERS),
    ] = None
    shard_size: Annotated[
        int | None, Option(help="Samples of a file; default: 64 MiB, fewer of a large model.", rich_help_panel=FOLDERS)
    ] = None
    dtype: Annotated[
        str | None, Option(help="float32 (default), float16, or uint8 for [0, 1].", rich_help_panel=FOLDERS)
    ] = None
    workers: Annotated[
        int | None,
        Option(
            help="Processes; default: one a GPU, or this one. With --ray: actors; default: all there is room for.",
            rich_help_panel=FOLDERS,
        ),
    ] = None
    ray: Annotated[
        str | None,
        Option(
            help="Workers on a Ray cluster at this address; alone: RAY_ADDRESS, the one on this machine, or a new one.",
            metavar="[ADDRESS]",
            rich_help_panel=FOLDERS,
        ),
    ] = None
    as_json: Annotated[
        bool, Option("--json", help="Print what happens as JSON, a line each.", rich_help_panel=FOLDERS)
    ] = False

    def check_unused(self) -> None:
        """Refuse them for a single file.

        Raises:
            InputError: one is given.
        """
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                name = "json" if field.name == "as_json" else field.name.replace("_", "-")
                raise InputError(f"--{name}: only for a folder of shards; --out names a single file")


def with_addresses(arguments: list[str]) -> list[str]:
    """The arguments of a command, a ``--ray`` without an address with one that stands for any."""
    pairs = pairwise([*arguments, "-"])
    return [f"--ray={ANY_RAY}" if word == "--ray" and next.startswith("-") else word for word, next in pairs]


def names_folder(out: str) -> bool:
    """Whether ``--out`` is a folder for shards: a URL, or it ends in a slash, is one, or has no suffix."""
    return is_url(out) or out.endswith("/") or Path(out).is_dir() or not Path(out).suffix


def generate_folder(
    model: RunOptions, target: str, options: BulkOptions, n: int, seed: int, output: str, condition: str | None
) -> None:
    """``fastvae generate`` into a folder; errors as :func:`fastvae.bulk.generate`."""
    if model.batch_invariant is False:
        raise InputError("--no-batch-invariant: the shards of a folder are always batch-invariant")
    out = folder_path("out", target)
    vae = model.load(batch_invariant=True)
    labels = read_condition(condition, vae.spec, n)
    _run(bulk.generate, "samples", out, options, vae, n, out, seed=seed, output=output, condition=labels)


def data_folder(
    verb: Callable[..., bulk.Report],
    model: RunOptions,
    data: DataOptions,
    target: OutTarget,
    options: BulkOptions,
    condition: str | None,
    invalid: str,
    **settings: Any,
) -> None:
    """``fastvae encode``, ``reconstruct`` or ``score`` into a folder; errors as :func:`fastvae.bulk.encode`."""
    if model.batch_invariant is False:
        raise InputError("--no-batch-invariant: the shards of a folder are always batch-invariant")
    if target.force:
        raise InputError("--force: not for a folder of shards; delete it to begin anew")
    out = folder_path("out", target.out)
    vae = model.load(batch_invariant=True)
    reading = data.reading()
    if data.size is not None:
        reading = dataclasses.replace(reading, image_shape=data.spec_for(vae.spec).input_shape)
    settings |= {"reading": reading, "invalid": invalid, "condition": read_condition(condition, vae.spec, None)}
    _run(verb, "rows", out, options, vae, data.data, out, **settings)


def _run(
    verb: Callable[..., bulk.Report], what: str, out: Path | str, options: BulkOptions, *arguments: Any, **settings: Any
) -> None:
    """Run a job whose rows are called ``what``."""
    with _watching(out, as_json=options.as_json, title=verb.__name__, what=what) as watch:
        try:
            report = verb(
                *arguments,
                **settings,
                shard_size=options.shard_size,
                format=options.shards or "parquet",
                dtype=options.dtype or "float32",
                workers=options.workers,
                ray=False if options.ray is None else options.ray == ANY_RAY or options.ray,
                watch=watch,
            )
        except IncompleteJobError as error:
            note(f"fastvae: error: {error}")
            raise typer.Exit(NOT_ALL) from error
        except (KeyboardInterrupt, SystemExit):
            note(f"{out}: stopped; the same command goes on with what is there")
            raise
    if not options.as_json:
        lists = f", {report.rejected:,} of them rejected" if report.rejected else ""
        note(f"{out}: {report.n:,} {what} in {report.shards:,} shards{lists}, content {report.content}")


@command("fastvae verify samples/ --model mnist")
def verify(
    folder: Annotated[str, Argument(help="Folder of shards, or its URL.")],
    model: Annotated[
        str | None, Option(help="The model it was made with: rows are made again.", rich_help_panel=MODEL)
    ] = None,
    format: Annotated[str, Option(help="Format of the checkpoint.", rich_help_panel=MODEL)] = "auto",
    spec: Annotated[Path | None, Option(help="JSON file that describes its weights.", rich_help_panel=MODEL)] = None,
    cast: Annotated[bool, Option("--cast", help="As for generate.", rich_help_panel=MODEL)] = False,
    allow_nonfinite: Annotated[
        bool, Option("--allow-nonfinite", help="As for generate.", rich_help_panel=MODEL)
    ] = False,
    device: Annotated[str, Option(help="As for generate.", rich_help_panel=MODEL)] = "auto",
    condition: ConditionText = None,
    data: Annotated[
        Path | None, Option(help="For encode, reconstruct and score: the data it was made of.", rich_help_panel=MODEL)
    ] = None,
    rows: Annotated[int, Option(help="How many rows to make again.")] = 64,
    seed: Seed = 0,
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:
    """Whether the folder of a job holds what it promises: every file's SHA-256 and rows.

    With --model also some rows, drawn at random by --seed, are made again and compared bit by bit.
    """
    place = folder_path("folder", folder)
    job = open_folder(place).job()
    options = ModelOptions(model or "", format, spec, cast, allow_nonfinite)
    vae = None if model is None else _load(options, job, device)
    labels = None if vae is None else read_condition(condition, vae.spec, job.n)
    with progress("verify", job.shards) as advance:
        found = bulk.verify(place, vae, rows=rows, seed=seed, condition=labels, data=data, watch=lambda *_: advance(1))
    if as_json:
        facts = {"ok": found.ok, "shards": found.shards, "rows": found.rows, "problems": found.problems}
        print(json.dumps({"job": job.id, **facts}))
    else:
        for problem in found.problems:
            print(problem)
        again = f", {found.rows:,} rows made again" if vae is not None else ""
        note(f"{place}: {found.shards:,} of {job.shards:,} shards are as they were written{again}")
    if not found.ok:
        raise typer.Exit(NOT_ALL)


def _load(options: ModelOptions, job: Job, device: str) -> fastvae.VAE:
    """The model, to be run as the job ran it."""
    return RunOptions(
        **dataclasses.asdict(options),
        device=device,
        precision=job.precision,
        impl=job.implementation,
        scaled_latents=job.scaled_latents,
        max_memory=job.max_memory or None,
    ).load(batch_invariant=True)


@contextmanager
def _watching(
    out: Path | str, *, as_json: bool, title: str = "generate", what: str = "samples"
) -> Iterator[Callable[[bulk.Progress], None]]:
    """What shows a job's progress: JSON on stdout, a bar on a terminal, or else a line now and then.

    Its rows are called ``what``.
    """
    console = Console(stderr=True)
    if as_json:
        yield lambda state: print(json.dumps(dataclasses.asdict(state)), flush=True)
    elif console.is_terminal:
        bar = Bar(TextColumn(title), BarColumn(), TextColumn("{task.description}"))
        task = bar.add_task("", total=None)
        with Live(bar, console=console) as live:

            def draw(state: bulk.Progress) -> None:
                done, total = (state.hashed, state.to_hash) if state.event == "hash" else (state.samples, state.n)
                bar.update(task, total=total, completed=done, description=_figures(state, what))
                live.update(Group(bar, *map(Text, worker_lines(state.workers))))
                if state.message:
                    live.console.print(state.message, markup=False, highlight=False)

            yield draw
    else:
        yield _Lines(out, what)


class _Lines:
    """Prints a line at the start, when something happens, and every PATIENCE seconds."""

    def __init__(self, out: Path | str, what: str) -> None:
        self._out, self._what, self._next = out, what, 0.0

    def __call__(self, state: bulk.Progress) -> None:
        now = time.monotonic()
        if state.message:
            note(f"{self._out}: {state.message}")
        if state.event in ("hash", "shard") and now >= self._next:
            self._next = now + PATIENCE
            note(f"{self._out}: {_figures(state, self._what)}")


def _figures(state: bulk.Progress, what: str) -> str:
    """Rows, which are called ``what``, shards, rate and what is left, in a few words."""
    if state.event == "hash":
        parts = [f"hashing the input: {state.hashed / 1e6:,.0f}/{state.to_hash / 1e6:,.0f} MB"]
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


COMMANDS = (verify,)
