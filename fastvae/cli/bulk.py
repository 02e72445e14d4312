"""Bulk jobs: ``generate``, ``encode``, ``reconstruct`` and ``score`` into a folder, and ``verify``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

import fastvae
from fastvae import bulk
from fastvae.bulk.job import COMPILED, Job
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
from fastvae.cli.watching import Stopped, looking, watching
from fastvae.cli.work import note, read_condition
from fastvae.errors import IncompleteJobError, InputError

FOLDERS = "Writing a folder of shards"
NOT_ALL = 1
# What --ray without an address means; no address begins like this.
ANY_RAY = ":any"


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
        str | None, Option(help="float32 (default), float16, or uint8 for pixels.", rich_help_panel=FOLDERS)
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
    recheck: Annotated[
        bool,
        Option(
            "--recheck",
            help="Hash the shards that are there, and make those again whose bytes have changed.",
            rich_help_panel=FOLDERS,
        ),
    ] = False
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
    stopped = Stopped(out)
    with watching(out, as_json=options.as_json, title=verb.__name__, what=what) as show:

        def watch(state: bulk.Progress) -> None:
            if state.event == "stop":
                stopped.say()
            show(state)

        try:
            report = verb(
                *arguments,
                **settings,
                shard_size=options.shard_size,
                format=options.shards or "parquet",
                dtype=options.dtype or "float32",
                workers=options.workers,
                recheck=options.recheck,
                ray=False if options.ray is None else options.ray == ANY_RAY or options.ray,
                watch=watch,
            )
        except IncompleteJobError as error:
            note(f"fastvae: error: {error}")
            raise typer.Exit(NOT_ALL) from error
        except (KeyboardInterrupt, SystemExit):
            stopped.say()
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
    with looking("verify", "rows") as show:
        found = bulk.verify(place, vae, rows=rows, seed=seed, condition=labels, data=data, watch=show)
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
        impl="auto" if job.implementation == COMPILED else job.implementation,
        scaled_latents=job.scaled_latents,
        max_memory=job.max_memory or None,
    ).load(batch_invariant=True)


COMMANDS = (verify,)
