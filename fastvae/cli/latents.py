"""``diagnose``: which latent dimensions a model uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from typer import Option

import fastvae
from fastvae.cli.options import ConditionText, DataOptions, RunOptions, Seed, command
from fastvae.cli.work import Block, Rows, read_condition, refuse, walk
from fastvae.errors import UnsupportedError
from fastvae.files import Source
from fastvae.representation import diagnose_posterior
from fastvae.spec import PointHead


def check_rows(source: Source, low: int, values: Rows) -> None:
    """Refuse NaN and Inf in rows of which the first is number ``low``; errors as :func:`fastvae.cli.work.refuse`."""
    refuse(source, low, ~np.isfinite(values), "NaN or Inf; fill it with fastvae impute, or leave the row out")


def finite(source: Source, title: str, condition: Any) -> Iterator[Block]:
    """The rows of ``source`` in blocks; errors as :func:`check_rows`."""
    for block in walk(source, title, condition, invalid="propagate"):
        check_rows(source, block.low, block.values)
        yield block


def posteriors(vae: fastvae.VAE, source: Source, condition: Any) -> tuple[Rows, Rows]:
    """Mean and log-variance of every row, of latents whose prior is N(0, I)."""
    blocks = [
        vae.encode(block.values, condition=block.condition).unscaled() for block in finite(source, "encode", condition)
    ]
    mean, logvar = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return mean, logvar


@command("fastvae diagnose digits data.npy")
def diagnose(
    model: RunOptions,
    data: DataOptions,
    threshold: Annotated[float, Option(help="Variance of posterior means above which a dimension is active.")] = 0.01,
    mi_rows: Annotated[int, Option(help="Rows for the estimate of mutual information; 0: none.")] = 1024,
    seed: Seed = 0,
    condition: ConditionText = None,
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:
    """Which latent dimensions carry information about the data, and which have collapsed onto the prior."""
    vae = model.load()
    if isinstance(vae.spec.posterior, PointHead):
        raise UnsupportedError("diagnose: this model's encoder is deterministic, its posterior has no variance")
    source = data.open(vae.spec)
    mean, logvar = posteriors(vae, source, read_condition(condition, vae.spec, len(source)))
    found = diagnose_posterior(mean, logvar, threshold=threshold, mi_rows=mi_rows, seed=seed)
    print(json.dumps(found.as_dict(), indent=2) if as_json else found)


COMMANDS = (diagnose,)
