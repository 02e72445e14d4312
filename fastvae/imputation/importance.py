"""Self-normalised importance sampling of a row's latents, streamed over chunks of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvae import noise
from fastvae.imputation.request import Block, Imputer, as_rows
from fastvae.running import log_add
from fastvae.runtime import Engine


@dataclass
class _Sums:
    """What importance samples add up to so far, one after the other: the order, and so the bits, know no chunks.

    ``log_total`` and ``log_squares`` are logarithms of the sums of weights and of their squares (rows,), ``estimate``
    is the weights' mean of E[x|z] (rows, *input_shape). ``chosen`` are latents drawn by the weights, (rows, draws,
    *latent_shape): those of the largest sum of log-weight and Gumbel noise, ``best`` (rows, draws).
    """

    log_total: Tensor
    log_squares: Tensor
    estimate: Tensor
    best: Tensor
    chosen: Tensor

    @staticmethod
    def zero(filled: Tensor, mean: Tensor, draws: int) -> _Sums:
        """Of no samples, for rows ``filled`` whose posterior means are ``mean``."""
        nothing = torch.full((len(filled), draws + 1), -math.inf, dtype=torch.float64, device=filled.device)
        return _Sums(
            log_total=nothing[:, 0],
            log_squares=nothing[:, 0],
            estimate=torch.zeros(filled.shape, dtype=torch.float64, device=filled.device),
            best=nothing[:, 1:],
            chosen=mean[:, None].expand(len(filled), draws, *mean.shape[1:]).clone(),
        )

    def add(self, log_weight: Tensor, output: Tensor) -> None:
        """One more sample of every row: its log-weight (rows,) and E[x|z]."""
        total = log_add(self.log_total, log_weight)
        finite = total.clamp(min=torch.finfo(total.dtype).min)  # all weights 0 so far: nothing to keep or add
        keep, add = torch.exp(self.log_total - finite), torch.exp(log_weight - finite)
        self.estimate = self.estimate * as_rows(keep, output) + output * as_rows(add, output)
        self.log_total = total
        self.log_squares = log_add(self.log_squares, 2 * log_weight)

    def choose(self, log_weight: Tensor, uniform: Tensor, z: Tensor) -> None:
        """Take ``z`` for those draws in which it comes first now; ``uniform`` is (rows, draws)."""
        gumbel = log_weight[:, None] - torch.log(-torch.log(uniform))
        better = gumbel > self.best
        self.best = torch.where(better, gumbel, self.best)
        self.chosen[better] = z[:, None].expand_as(self.chosen)[better]

    def effective(self) -> Tensor:
        """Kish's effective number of samples, (sum w)^2 / sum w^2: (rows,), 0 where all weights are."""
        found = torch.exp(2 * self.log_total - self.log_squares)
        return torch.where(self.log_total.isinf(), 0.0, found)


def importance(engine: Engine, block: Block, imputer: Imputer, filled: Tensor) -> tuple[list[Tensor], Tensor]:
    """Imputations, each (rows, *input_shape), and each row's effective number of samples in the last round."""
    for round_ in range(imputer.rounds):
        last = round_ == imputer.rounds - 1
        sums = _round(engine, block, imputer, filled, round_, imputer.n_imputations if last else 1)
        estimate = torch.where(as_rows(sums.log_total.isinf(), filled), filled, sums.estimate)
        filled = block.fill(estimate)
    if imputer.n_imputations == 1:
        return [estimate], sums.effective()
    results = []
    for j in range(imputer.n_imputations):
        parameters = engine.parameters(sums.chosen[:, j], block.condition)
        results.append(block.sample(engine, imputer, parameters, noise.IMPUTE_LIKELIHOOD + j))
    return results, sums.effective()


def _round(engine: Engine, block: Block, imputer: Imputer, filled: Tensor, round_: int, n_imputations: int) -> _Sums:
    """Importance samples from q(z | filled row); several imputations are resampled by their weights (Gumbel-max)."""
    mean, logvar = engine.encode(filled, block.condition)
    draws = n_imputations if n_imputations > 1 else 0
    sums = _Sums.zero(filled, mean, draws)
    chunk = max(1, engine.batches.rows("impute") // max(len(filled), 1))
    for first in range(0, imputer.samples, chunk):
        count = min(chunk, imputer.samples - first)
        stream = noise.IMPUTE_POSTERIOR + round_ * imputer.samples + first
        z, _ = engine.draws.from_posterior(
            mean, logvar, seed=imputer.seed, start=block.start, stream=stream, samples=count
        )
        nll, outputs = engine.impute(z, filled, mask=~block.missing, condition=block.condition)
        log_weights = engine.draws.prior.log_ratio(z, mean, logvar) - nll.double()
        for k in range(count):
            sums.add(log_weights[k], outputs[k])
            if draws:
                uniform = block.uniforms(engine, imputer, draws, noise.IMPUTE_CHOICE + first + k)
                sums.choose(log_weights[k], uniform, z[k])
    return sums
