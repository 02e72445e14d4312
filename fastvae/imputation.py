"""Filling in missing entries from what the model makes of the observed ones.

All three methods draw z given the observed entries of a row and ask the decoder for the rest:

* ``importance``: self-normalised importance sampling with q(z | filled row) as proposal, the row refilled and
  proposed from again for a few rounds (MIWAE's estimator; Mattei & Frellsen 2019).
* ``gibbs``: pseudo-Gibbs, z ~ q(z | filled row) and then x_missing ~ p(x | z) (Rezende et al. 2014). An encoder
  that meets a row unlike any it was trained on may throw z ever further out, so z is kept to the ball that holds
  all but 1e-9 of the prior, or of the nearest component of one that is a mixture.
* ``metropolis``: the same proposals, accepted by Metropolis-Hastings, so that the chain is exact
  (Metropolis-within-Gibbs; Mattei & Frellsen 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import fastvae_kernels
from fastvae import noise
from fastvae.errors import InputError
from fastvae.runtime import Engine
from fastvae.runtime.memory import in_batches

METHODS = ("importance", "metropolis", "gibbs")
ROUNDS = 3
FILL_SAMPLES = 128


@dataclass(frozen=True)
class Imputer:
    """What to compute: ``n_imputations`` 1 for the conditional mean, more for that many draws.

    ``samples`` is the number of importance samples of a round, or of steps of a chain (the first half of
    which is burn-in).
    """

    method: str
    n_imputations: int
    samples: int
    seed: int

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or self.method not in METHODS:
            raise InputError(f"method: expected one of {', '.join(map(repr, METHODS))}, got {self.method!r:.80}")
        checked = {
            "n_imputations": noise.check_count("n_imputations", self.n_imputations, least=1, most=noise.MAX_SAMPLES),
            "samples": noise.check_count("samples", self.samples, least=2, most=noise.MAX_SAMPLES // ROUNDS),
            "seed": noise.check_seed(self.seed),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.method != "importance" and self.n_imputations > self.samples // 2:
            raise InputError(
                f"n_imputations: a chain of {self.samples} steps gives at most {self.samples // 2} draws, got "
                f"{self.n_imputations}; raise samples"
            )

    def rows_per_block(self, engine: Engine) -> int:
        """Rows to impute at once; importance sampling goes through their samples in chunks."""
        rows = engine.batch_rows("score")
        return max(1, rows // (16 if self.method == "importance" else 1) // self.n_imputations)


@dataclass(frozen=True)
class Block:
    """One internal batch: rows ``x``, what is ``missing`` of them, and the index of the first row's noise."""

    x: Tensor
    missing: Tensor
    start: int
    condition: Tensor | None

    def fill(self, values: Tensor) -> Tensor:
        """The rows with ``values`` where they are missing."""
        return torch.where(self.missing, values.to(self.x.dtype), self.x)


def marginal_mean(engine: Engine, condition: Tensor | None) -> Tensor:
    """E[x] under the model, from fixed prior samples: (1, *input_shape), or (rows, *input_shape) by condition."""
    z = engine.prior_samples(FILL_SAMPLES, seed=0, start=0, stream=noise.FILL)
    if condition is None:
        return _mean_output(engine, z, None)[None]
    rows = [_mean_output(engine, z, vector) for vector in condition]
    return torch.stack(rows) if rows else z.new_empty(0, *engine.spec.input_shape)


def _mean_output(engine: Engine, z: Tensor, vector: Tensor | None) -> Tensor:
    """The mean of E[x|z] over all ``z``: (*input_shape)."""
    outputs = z.new_empty(len(z), *engine.spec.input_shape)

    def compute(low: int, high: int) -> None:
        outputs[low:high] = engine.decode(z[low:high], None if vector is None else vector.expand(high - low, -1))

    in_batches(engine, ["decode"], 0, len(z), lambda: engine.batch_rows("decode"), compute)
    return outputs.mean(0)


def impute_block(engine: Engine, block: Block, imputer: Imputer, fill: Tensor) -> Tensor:
    """Imputations of one internal batch: (n_imputations, rows, *input_shape), observed entries as in ``block.x``.

    ``fill`` is the marginal mean to start from.
    """
    impute = _importance if imputer.method == "importance" else _chain
    values = impute(engine, block, imputer, block.fill(fill))
    return torch.stack([block.fill(value) for value in values])


def _importance(engine: Engine, block: Block, imputer: Imputer, filled: Tensor) -> list[Tensor]:
    estimate, chosen = filled, filled
    for round_ in range(ROUNDS):
        draws = imputer.n_imputations if round_ == ROUNDS - 1 and imputer.n_imputations > 1 else 0
        estimate, chosen = _importance_round(engine, block, imputer, filled, round_, draws)
        filled = block.fill(estimate)
    if imputer.n_imputations == 1:
        return [estimate]
    results = []
    for j in range(imputer.n_imputations):
        parameters = engine.parameters(chosen[:, j], block.condition)
        results.append(_sample(engine, block, imputer, parameters, noise.IMPUTE_LIKELIHOOD + j))
    return results


def _importance_round(
    engine: Engine, block: Block, imputer: Imputer, filled: Tensor, round_: int, draws: int
) -> tuple[Tensor, Tensor]:
    """E[x | observed] by importance weights, and ``draws`` latents a row resampled by them (Gumbel-max)."""
    mean, logvar = engine.encode(filled, block.condition)
    rows = len(filled)
    log_total = torch.full((rows,), -math.inf, dtype=torch.float64, device=filled.device)
    estimate = torch.zeros(filled.shape, dtype=torch.float64, device=filled.device)
    best = torch.full((rows, draws), -math.inf, dtype=torch.float64, device=filled.device)
    chosen = mean[:, None].expand(rows, draws, *mean.shape[1:]).clone()
    chunk = max(1, engine.batch_rows("impute") // max(rows, 1))
    for first in range(0, imputer.samples, chunk):
        count = min(chunk, imputer.samples - first)
        stream = noise.IMPUTE_POSTERIOR + round_ * imputer.samples + first
        z, _ = engine.posterior_samples(
            mean, logvar, seed=imputer.seed, start=block.start, stream=stream, samples=count
        )
        nll, outputs = engine.impute(z, filled, mask=~block.missing, condition=block.condition)
        weights = engine.prior.log_ratio(z, mean, logvar) - nll.double()
        for k in range(count):
            total = torch.logaddexp(log_total, weights[k])
            finite = total.clamp(min=torch.finfo(total.dtype).min)  # all weights 0 so far: nothing to keep or add
            keep, add = torch.exp(log_total - finite), torch.exp(weights[k] - finite)
            estimate = estimate * _as_rows(keep, filled) + outputs[k] * _as_rows(add, filled)
            log_total = total
            if draws:
                uniform = _uniform(engine, imputer, block, draws, noise.IMPUTE_CHOICE + first + k)
                gumbel = weights[k][:, None] - torch.log(-torch.log(uniform))
                better = gumbel > best
                best = torch.where(better, gumbel, best)
                chosen[better] = z[k][:, None].expand_as(chosen)[better]
    return torch.where(_as_rows(log_total.isinf(), filled), filled, estimate), chosen


def _chain(engine: Engine, block: Block, imputer: Imputer, filled: Tensor) -> list[Tensor]:
    """Pseudo-Gibbs or Metropolis-within-Gibbs; the first half of the steps is burn-in."""
    burn_in, kept = imputer.samples // 2, imputer.samples - imputer.samples // 2
    exact_from = 1 if imputer.method == "metropolis" else imputer.samples
    wanted = {burn_in + (j + 1) * kept // imputer.n_imputations - 1 for j in range(imputer.n_imputations)}
    total = torch.zeros(filled.shape, dtype=torch.float64, device=filled.device)
    draws: list[Tensor] = []
    z: Tensor | None = None
    for step in range(imputer.samples):
        z = _step(engine, block, imputer, filled, step, z if step >= exact_from else None)
        parameters = engine.parameters(z, block.condition)
        draw = _sample(engine, block, imputer, parameters, noise.IMPUTE_LIKELIHOOD + step)
        filled = block.fill(draw)
        if step >= burn_in:
            total += engine.head.mean(parameters)
        if imputer.n_imputations > 1 and step in wanted:
            draws.append(draw)
    return draws if imputer.n_imputations > 1 else [total / kept]


def _step(engine: Engine, block: Block, imputer: Imputer, filled: Tensor, step: int, current: Tensor | None) -> Tensor:
    """The next latent of a chain: a draw from q(z | filled row), accepted against ``current`` if there is one."""
    mean, logvar = engine.encode(filled, block.condition)
    stream = noise.IMPUTE_POSTERIOR + step
    proposed, _ = engine.posterior_samples(mean, logvar, seed=imputer.seed, start=block.start, stream=stream, samples=1)
    if current is None:
        return engine.prior.within(proposed[0])
    both = torch.cat([proposed, current[None]])
    nll = engine.nll(both, filled, condition=block.condition).double()
    weights = engine.prior.log_ratio(both, mean, logvar) - nll
    uniform = _uniform(engine, imputer, block, 1, noise.IMPUTE_CHOICE + step)[:, 0]
    accepted = torch.log(uniform) < weights[0] - weights[1]
    return torch.where(_as_rows(accepted, current), proposed[0], current)


def _sample(engine: Engine, block: Block, imputer: Imputer, parameters: tuple[Tensor, ...], stream: int) -> Tensor:
    return engine.head.sample(parameters, seed=imputer.seed, start=block.start, stream=stream)


def _uniform(engine: Engine, imputer: Imputer, block: Block, size: int, stream: int) -> Tensor:
    uniform = fastvae_kernels.sample_uniform(
        len(block.x), size, seed=imputer.seed, start=block.start, stream=stream, device=engine.device
    )
    return uniform.double()


def _as_rows(values: Tensor, like: Tensor) -> Tensor:
    """(rows,) shaped to broadcast over the rows of ``like``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
