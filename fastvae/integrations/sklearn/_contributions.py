"""What each feature adds to a row's reconstruction error, for likelihoods that factorise over features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import fastvae_kernels
from fastvae.api import VAE
from fastvae.likelihoods.operands import OPERANDS
from fastvae.runtime import Engine
from fastvae.runtime.batching import blocks

# Each entry of these has parameters of its own and a term of its own.
FACTORISING = (
    "bernoulli",
    "gaussian_fixed",
    "gaussian_per_dimension",
    "gaussian_predicted",
    "laplace",
    "student_t",
    "continuous_bernoulli",
)


def contributions(vae: VAE, X: NDArray[np.float32]) -> NDArray[np.float64]:
    """-log p(x_j|z) at z = posterior mean, in nats, (rows, features); a row's sum is its ``reconstruction`` score.

    Raises:
        ValueError: the model's likelihood does not factorise over features.
    """
    kind = vae.spec.likelihood.kind
    if kind not in FACTORISING:
        raise ValueError(f"contributions: expected a likelihood of {', '.join(FACTORISING)}; the model's is {kind!r}")
    vae.score(X[:1])  # refuses rows that no likelihood of the kind has
    engine = vae._engine
    result = np.empty(X.shape, np.float64)
    with engine.in_use:
        for low, high in blocks(len(X), engine.batches.rows("reconstruct")):
            rows = torch.from_numpy(X[low:high]).to(engine.device, engine.dtype)
            terms = _terms(engine, kind, rows.reshape(-1, *vae.spec.input_shape))
            result[low:high] = terms.reshape(high - low, -1).cpu().numpy()
    return result


def _terms(engine: Engine, kind: str, x: Tensor) -> Tensor:
    """-log p of every entry of ``x`` (rows, *input_shape), in float64: the op for rows, each of one entry."""
    operands = OPERANDS[kind]
    given = iter(engine.parameters(engine.embed(x)))
    values: list[Any] = []
    for name in operands.names:
        value = engine.head.constants[name] if name in engine.head.constants else next(given)
        values.append(value.to(x.device).double().expand_as(x).reshape(-1, 1))
    terms: Tensor = getattr(fastvae_kernels, operands.op)(*values, x.double().reshape(-1, 1), impl="reference")
    return terms.reshape(x.shape)
