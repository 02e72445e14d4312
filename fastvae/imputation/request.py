"""What to impute, and how."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import fastvae_kernels
from fastvae import noise
from fastvae.errors import InputError
from fastvae.runtime import Engine

METHODS = ("importance", "metropolis", "gibbs")
MOST_ROUNDS = 100


@dataclass(frozen=True)
class Imputer:
    """What to compute: ``n_imputations`` 1 for the best guess, more for that many draws.

    ``samples`` is the number of importance samples of each of ``rounds``, or of steps of a chain (the first half of
    which is burn-in).
    """

    method: str
    n_imputations: int
    samples: int
    seed: int
    rounds: int

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or self.method not in METHODS:
            raise InputError(f"method: expected one of {', '.join(map(repr, METHODS))}, got {self.method!r:.80}")
        rounds = noise.check_count("rounds", self.rounds, least=1, most=MOST_ROUNDS)
        checked = {
            "rounds": rounds,
            "n_imputations": noise.check_count("n_imputations", self.n_imputations, least=1, most=noise.MAX_SAMPLES),
            "samples": noise.check_count("samples", self.samples, least=2, most=noise.MAX_SAMPLES // rounds),
            "seed": noise.check_seed(self.seed),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.method != "importance" and self.n_imputations > self.samples // 2:
            raise InputError(
                f"n_imputations: a chain of {self.samples} steps gives at most {self.samples // 2} draws, got "
                f"{self.n_imputations}; raise samples"
            )

    @property
    def burn_in(self) -> int:
        """Steps of a chain that are thrown away."""
        return self.samples // 2

    @property
    def kept(self) -> int:
        """Steps of a chain that count."""
        return self.samples - self.burn_in

    def rows_per_block(self, engine: Engine) -> int:
        """Rows to impute at once; importance sampling goes through their samples in chunks."""
        rows = engine.batches.rows("score")
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

    def uniforms(self, engine: Engine, imputer: Imputer, size: int, stream: int) -> Tensor:
        """Uniforms in (0, 1) that belong to the rows: (rows, size), float64."""
        uniform = fastvae_kernels.sample_uniform(
            len(self.x), size, seed=imputer.seed, start=self.start, stream=stream, device=engine.device
        )
        return uniform.double()

    def sample(self, engine: Engine, imputer: Imputer, parameters: tuple[Tensor, ...], stream: int) -> Tensor:
        """A draw from p(x|z) for each row: (rows, *input_shape)."""
        return engine.head.sample(parameters, seed=imputer.seed, start=self.start, stream=stream)


def as_rows(values: Tensor, like: Tensor) -> Tensor:
    """(rows,) shaped to broadcast over the rows of ``like``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
