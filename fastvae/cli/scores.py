"""``score``: how surprising every row is, as a file or as a summary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from rich.console import Console
from rich.table import Table
from typer import Option

import fastvae.bulk
from fastvae.api import VAE
from fastvae.cli.bulk import BulkOptions, data_folder, names_folder
from fastvae.cli.make import ARRAYS, TABLES
from fastvae.cli.options import (
    WRITING,
    ConditionText,
    DataOptions,
    Force,
    Invalid,
    OutTarget,
    RunOptions,
    Seed,
    command,
)
from fastvae.cli.rows import id_fields, id_values
from fastvae.cli.work import Block, Rows, note, read_condition, walk
from fastvae.errors import InputError
from fastvae.evidence import BOUNDS, ERRORS
from fastvae.files import Field, Source, check_target, open_sink

TOP = 5
# Draws for standard errors where --samples does not say.
DRAWS = 5000


@command("fastvae score digits data.npy --metric elbo --out scores.csv")
def score(
    model: RunOptions,
    data: DataOptions,
    bulk: BulkOptions,
    out: Annotated[
        str | None,
        Option("--out", "-o", help="File or folder of shards to write; default: a summary.", rich_help_panel=WRITING),
    ] = None,
    force: Force = False,
    metric: Annotated[
        str, Option(help="reconstruction, kl, elbo, iwae, mse or l2; for a folder of shards several, with commas.")
    ] = "reconstruction",
    samples: Annotated[int | None, Option(help="Draws of z a row; default: z is the posterior's mean.")] = None,
    beta: Annotated[float, Option(help="Weight of the KL in elbo.")] = 1.0,
    seed: Seed = 0,
    condition: ConditionText = None,
    invalid: Invalid = "raise",
    standard_errors: Annotated[
        bool,
        Option("--standard-errors", help=f"Of iwae or elbo: how far off, and effective draws ({DRAWS} by default)."),
    ] = False,
) -> None:
    """How surprising the model finds every row; higher is more anomalous.

    Writes .npy, .npz, or .csv and .parquet with a column named after the metric, or a folder of shards, as encode does.
    Without --out it prints a summary and the most anomalous rows. With --standard-errors there are columns
    standard_error, in nats, and effective_sample_size, of the importance weights.
    """
    if standard_errors:
        _check_errors(metric, beta)
        samples = samples or DRAWS
    if out is not None and names_folder(out):
        drawn: dict[str, Any] = {"metric": metric.split(","), "samples": samples, "seed": seed, "beta": beta}
        drawn["standard_errors"] = standard_errors
        data_folder(fastvae.bulk.score, model, data, OutTarget(out, force), bulk, condition, invalid, **drawn)
        return
    bulk.check_unused()
    if out is not None:
        check_target(Path(out), ((".npz",) if standard_errors else ARRAYS) + TABLES, force=force)
    vae = model.load()
    source = data.open(vae.spec, invalid=invalid)
    labels = read_condition(condition, vae.spec, len(source))

    names = (metric, *ERRORS) if standard_errors else (metric,)

    def compute(block: Block) -> dict[str, Rows]:
        where: dict[str, Any] = {"condition": block.condition, "start": block.low, "invalid": invalid}
        if standard_errors:
            return _with_errors(vae, block.values, metric, samples or 0, seed, where)
        return {metric: vae.score(block.values, cast(Any, metric), samples, seed, beta, **where)}

    blocks = walk(source, "score", labels, invalid=invalid)
    if out is None:
        parts = [compute(block) for block in blocks]
        _summarise({name: np.concatenate([part[name] for part in parts]) for name in names}, source)
        return
    fields = [Field(name, (name,)) for name in names]
    with open_sink(Path(out), len(source), [*id_fields(source), *fields]) as sink:
        for block in blocks:
            sink.write(id_values(source, block.low, block.high) | compute(block))
    note(f"{out}: {len(source):,} scores")


def _check_errors(metric: str, beta: float) -> None:
    """Refuse --standard-errors where there are none."""
    if metric not in BOUNDS or beta != 1:
        raise InputError(f"--standard-errors: for --metric {' or '.join(BOUNDS)} with --beta 1, got {metric!r:.80}")


def _with_errors(vae: VAE, x: Rows, metric: str, samples: int, seed: int, where: dict[str, Any]) -> dict[str, Rows]:
    """The score of each row, its standard error and the effective number of its draws."""
    found = vae.log_likelihood(x, samples, seed, bound=cast(Any, metric), **where)
    return {metric: -found.estimate} | {name: getattr(found, name) for name in ERRORS}


def _summarise(columns: dict[str, Rows], source: Source) -> None:
    """Print the distribution of the scores, the first of the columns, then the rows that score highest."""
    metric, scores = next(iter(columns.items()))
    known = scores[~np.isnan(scores)].astype(np.float64)
    summary = Table("", metric)
    summary.columns[1].justify = "right"
    summary.add_row("count", f"{len(scores):,}")
    if len(known) < len(scores):
        summary.add_row("NaN", f"{len(scores) - len(known):,}")
    if len(known):
        summary.add_row("mean", f"{known.mean():.6g}")
        if ERRORS[0] in columns and len(known) > 1:
            summary.add_row("standard error", f"{known.std(ddof=1) / len(known) ** 0.5:.6g}")
        summary.add_row("std", f"{known.std():.6g}")
        for name, share in (("min", 0), ("p50", 50), ("p95", 95), ("max", 100)):
            summary.add_row(name, f"{np.percentile(known, share):.6g}")
    Console().print(summary)
    if not len(known):
        return
    top = Table("row", *source.ids, *columns, title="most anomalous")
    for column in top.columns[-len(columns) :]:
        column.justify = "right"
    ranked = np.argsort(-scores, kind="stable")[: min(TOP, len(known))]
    for index in ranked:
        ids = (str(values[index]) for values in source.ids.values())
        top.add_row(str(index), *ids, *(f"{values[index]:.6g}" for values in columns.values()))
    Console().print(top)


COMMANDS = (score,)
