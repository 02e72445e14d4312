"""Pseudo-Gibbs and Metropolis-within-Gibbs: chains over a row's latents and its missing entries."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvae import noise
from fastvae.imputation.request import Block, Imputer, as_rows
from fastvae.runtime import Engine


def chain(engine: Engine, block: Block, imputer: Imputer, filled: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """Imputations, each (rows, *input_shape), and the share of a Metropolis chain's proposals that it accepted.

    The first half of the steps is burn-in, and counts in neither.
    """
    burn_in, kept = imputer.burn_in, imputer.kept
    wanted = {burn_in + (j + 1) * kept // imputer.n_imputations - 1 for j in range(imputer.n_imputations)}
    total = torch.zeros(filled.shape, dtype=torch.float64, device=filled.device)
    accepted = total.new_zeros(len(filled))
    draws: list[Tensor] = []
    z: Tensor | None = None
    for step in range(imputer.samples):
        z, moved = _step(engine, block, imputer, filled, step, z if imputer.method == "metropolis" else None)
        parameters = engine.parameters(z, block.condition)
        draw = block.sample(engine, imputer, parameters, noise.IMPUTE_LIKELIHOOD + step)
        filled = block.fill(draw)
        if step >= burn_in:
            total += engine.head.mean(parameters)
            accepted += moved
        if imputer.n_imputations > 1 and step in wanted:
            draws.append(draw)
    rate = accepted / kept if imputer.method == "metropolis" else None
    return draws if imputer.n_imputations > 1 else [total / kept], rate


def _step(
    engine: Engine, block: Block, imputer: Imputer, filled: Tensor, step: int, current: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The next latent of a chain, and which rows moved, (rows,) boolean.

    It is a draw from q(z | filled row), accepted against ``current`` if there is one.
    """
    mean, logvar = engine.encode(filled, block.condition)
    stream = noise.IMPUTE_POSTERIOR + step
    proposed, _ = engine.draws.from_posterior(
        mean, logvar, seed=imputer.seed, start=block.start, stream=stream, samples=1
    )
    if current is None:
        return engine.draws.prior.within(proposed[0]), torch.ones(len(filled), dtype=torch.bool, device=filled.device)
    both = torch.cat([proposed, current[None]])
    nll = engine.nll(both, filled, condition=block.condition).double()
    weights = engine.draws.prior.log_ratio(both, mean, logvar) - nll
    uniform = block.uniforms(engine, imputer, 1, noise.IMPUTE_CHOICE + step)[:, 0]
    accepted = torch.log(uniform) < weights[0] - weights[1]
    return torch.where(as_rows(accepted, current), proposed[0], current), accepted
