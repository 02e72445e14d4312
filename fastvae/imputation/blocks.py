"""Imputing rows, one internal batch after the other, by any method."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvae import noise
from fastvae.arrays import Conditions, Rows, copies
from fastvae.imputation.chains import chain
from fastvae.imputation.importance import importance
from fastvae.imputation.request import Block, Imputer
from fastvae.runtime import Engine
from fastvae.runtime.memory import in_batches

FILL_SAMPLES = 128


def marginal_mean(engine: Engine, condition: Tensor | None) -> Tensor:
    """E[x] under the model, from fixed prior samples: (1, *input_shape), or (rows, *input_shape) by condition."""
    z = engine.draws.from_prior(FILL_SAMPLES, seed=0, start=0, stream=noise.FILL)
    if condition is None:
        return _mean_output(engine, z, None)[None]
    rows = [_mean_output(engine, z, vector) for vector in condition]
    return torch.stack(rows) if rows else z.new_empty(0, *engine.spec.input_shape)


def _mean_output(engine: Engine, z: Tensor, vector: Tensor | None) -> Tensor:
    """The mean of E[x|z] over all ``z``: (*input_shape)."""
    outputs = z.new_empty(len(z), *engine.spec.input_shape)

    def compute(low: int, high: int) -> None:
        outputs[low:high] = engine.decode(z[low:high], None if vector is None else vector.expand(high - low, -1))

    in_batches(engine.batches, ["decode"], 0, len(z), lambda: engine.batches.rows("decode"), compute)
    return outputs.mean(0)


def impute_block(engine: Engine, block: Block, imputer: Imputer, fill: Tensor) -> tuple[Tensor, Tensor | None]:
    """Imputations of one internal batch, and how far to trust them.

    ``fill`` is the marginal mean to start from.

    Returns:
        (n_imputations, rows, *input_shape), observed entries as in ``block.x``; and, in float64, (rows,): the effective
        number of importance samples, or the share of proposals that a Metropolis chain accepted; None of pseudo-Gibbs,
        which has neither.
    """
    impute = importance if imputer.method == "importance" else chain
    values, trust = impute(engine, block, imputer, block.fill(fill))
    if imputer.n_imputations == 1:
        values = [engine.head.best_guess(value) for value in values]
    return torch.stack([block.fill(value) for value in values]), trust


def impute_rows(
    engine: Engine, rows: Rows, conditions: Conditions, imputer: Imputer, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Impute ``rows``, whose source is a tensor of ours with NaN where entries are missing.

    Row ``i`` has the noise of index ``start + i``. One imputation is written into the source itself.

    Returns:
        (n_imputations, *shape of the source); what :func:`impute_block` says of trust, (rows,), zeros if nothing; and
        (rows,) boolean, True where something was missing. The latter two are on the engine's device.
    """
    shared = marginal_mean(engine, None) if conditions.vectors is None else None
    source = rows.source
    result = source[None] if imputer.n_imputations == 1 else copies(source, imputer.n_imputations)
    trust = torch.zeros(len(rows), dtype=engine.how.output_dtype, device=engine.device)
    incomplete = torch.zeros(len(rows), dtype=torch.bool, device=engine.device)

    def compute(low: int, high: int) -> None:
        values = rows.block(low, high)  # read before anything is written to the source
        missing = values.isnan()
        block = Block(values.nan_to_num(0.0), missing, start + low, conditions.block(low, high))
        fill = marginal_mean(engine, block.condition) if shared is None else shared
        imputed, of_block = impute_block(engine, block, imputer, fill)
        imputed = rows.unflatten(imputed, 2).to(result)
        part = result[:, low:high]
        torch.where(part.isnan(), imputed, part, out=part)
        incomplete[low:high] = missing.flatten(1).any(1)
        if of_block is not None:
            trust[low:high] = of_block

    size, verbs = lambda: imputer.rows_per_block(engine), ("score", "impute")
    in_batches(engine.batches, verbs, 0, len(rows), size, compute)
    return result, trust, incomplete
