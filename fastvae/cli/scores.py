"""``score``: how surprising every row is, as a file or as a summary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from rich.console import Console
from rich.table import Table
from typer import Option

import fastvae.bulk
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
from fastvae.files import Field, Source, check_target, open_sink

TOP = 5


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
) -> None:
    """How surprising the model finds every row; higher is more anomalous.

    Writes .npy, .npz, or .csv and .parquet with a column named after the metric, or a folder of shards, as encode does.
    Without --out it prints a summary and the most anomalous rows.
    """
    if out is not None and names_folder(out):
        drawn = {"metric": metric.split(","), "samples": samples, "seed": seed, "beta": beta}
        data_folder(fastvae.bulk.score, model, data, OutTarget(out, force), bulk, condition, invalid, **drawn)
        return
    bulk.check_unused()
    if out is not None:
        check_target(Path(out), (*ARRAYS, *TABLES), force=force)
    vae = model.load()
    source = data.open(vae.spec, invalid=invalid)
    labels = read_condition(condition, vae.spec, len(source))

    def compute(block: Block) -> Rows:
        scores: Rows = vae.score(
            block.values,
            metric,  # type: ignore[arg-type]
            samples,
            seed,
            beta,
            condition=block.condition,
            start=block.low,
            invalid=invalid,
        )
        return scores

    blocks = walk(source, "score", labels, invalid=invalid)
    if out is None:
        _summarise(metric, np.concatenate([compute(block) for block in blocks]), source)
        return
    with open_sink(Path(out), len(source), [*id_fields(source), Field(metric, (metric,))]) as sink:
        for block in blocks:
            sink.write(id_values(source, block.low, block.high) | {metric: compute(block)})
    note(f"{out}: {len(source):,} scores")


def _summarise(metric: str, scores: Rows, source: Source) -> None:
    """Print the distribution of the scores, then the rows that score highest."""
    known = scores[~np.isnan(scores)].astype(np.float64)
    summary = Table("", metric)
    summary.columns[1].justify = "right"
    summary.add_row("count", f"{len(scores):,}")
    if len(known) < len(scores):
        summary.add_row("NaN", f"{len(scores) - len(known):,}")
    if len(known):
        summary.add_row("mean", f"{known.mean():.6g}")
        summary.add_row("std", f"{known.std():.6g}")
        for name, share in (("min", 0), ("p50", 50), ("p95", 95), ("max", 100)):
            summary.add_row(name, f"{np.percentile(known, share):.6g}")
    Console().print(summary)
    if not len(known):
        return
    top = Table("row", *source.ids, metric, title="most anomalous")
    top.columns[-1].justify = "right"
    ranked = np.argsort(-scores, kind="stable")[: min(TOP, len(known))]
    for index in ranked:
        ids = (str(values[index]) for values in source.ids.values())
        top.add_row(str(index), *ids, f"{scores[index]:.6g}")
    Console().print(top)


COMMANDS = (score,)
