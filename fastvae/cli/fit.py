"""``fit-sampler``: a model whose samples look more like the data."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from typer import Option

from fastvae.cli.options import ConditionText, DataOptions, OutOptions, RunOptions, Seed, command
from fastvae.cli.work import note, read_condition, walk


@command("fastvae fit-sampler digits data.npy --components 10 --out fitted.safetensors")
def fit_sampler(
    model: RunOptions,
    data: DataOptions,
    out: OutOptions,
    components: Annotated[int, Option(help="Gaussians of the mixture, at most as many as rows.")] = 10,
    covariance: Annotated[str, Option(help="Of each: full or diagonal.")] = "full",
    seed: Seed = 0,
    condition: ConditionText = None,
) -> None:
    """Fit a mixture of Gaussians to the latents of data, for generate to draw from in place of the prior.

    Writes the model with the mixture as one .safetensors file. Scores and impute keep the prior.
    """
    out.check(".safetensors")
    vae = model.load()
    source = data.open(vae.spec)
    labels = read_condition(condition, vae.spec, len(source))
    rows = np.concatenate([block.values for block in walk(source, "read", labels)])
    settings: dict[str, Any] = {"covariance": covariance, "condition": labels}
    fitted = vae.fit_sampler(rows, components, seed, **settings)
    fitted.save(out.out)
    note(f"{out.out}: {covariance} mixture of {components}, fitted to {len(rows):,} rows")


COMMANDS = (fit_sampler,)
