"""Where a job's rows come from: blocks of samples, in the dtype they are stored in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Protocol, cast

import numpy as np
import torch

from fastvae.api import VAE
from fastvae.arrays import check_condition
from fastvae.bulk.job import Job
from fastvae.bulk.table import Block, Rows
from fastvae.errors import InputError, UnsupportedError
from fastvae.plan import black_and_white
from fastvae.runtime import Engine


class RowSource(Protocol):
    """What computes the rows of a job."""

    def blocks(self, job: Job, low: int, high: int) -> Iterator[Block]:
        """Rows low to high in blocks of ``job.block_rows``."""

    def block(self, job: Job, low: int, high: int) -> Block:
        """Rows low to high at once."""


class Samples:
    """Samples of a batch-invariant model; ``condition`` is what :func:`condition_rows` gave."""

    def __init__(self, vae: VAE, condition: Rows | None) -> None:
        self._vae, self._condition = vae, condition

    def blocks(self, job: Job, low: int, high: int) -> Iterator[Block]:
        """See :class:`RowSource`."""
        for start in range(low, high, job.block_rows):
            yield self.block(job, start, min(start + job.block_rows, high))

    def block(self, job: Job, low: int, high: int) -> Block:
        """See :class:`RowSource`."""
        (column,) = job.columns
        output = "uint8" if job.output == "mean" and column.dtype == "uint8" else job.output
        condition = condition_block(self._condition, low, high)
        rows = self._vae.generate(high - low, job.seed, low, cast(Any, output), condition)
        assert isinstance(rows, np.ndarray)
        return Block(low, {column.name: stored(rows, column.dtype)})


def stored(rows: Rows, dtype: str) -> Rows:
    """``rows`` in the dtype of the files; uint8 is the nearest integer of 255 times the value, ties to even.

    What is pixels already keeps them: a file has an image's channels first, as the model has.

    Raises:
        UnsupportedError: a value that the dtype cannot hold: outside [0, 1] or NaN for uint8, too large for float16.
    """
    if rows.dtype == np.uint8:
        return np.moveaxis(rows, -1, 1) if rows.ndim == 4 else rows
    if dtype == "uint8":
        if rows.size and not (rows.min() >= 0 and rows.max() <= 1):
            raise UnsupportedError("dtype: uint8 holds values in [0, 1] only; use float32")
        scaled = rows * np.float32(255)
        return np.rint(scaled, out=scaled).astype(np.uint8)
    if dtype == "float16":
        with np.errstate(over="ignore"):
            half = rows.astype(np.float16)
        if bool((np.isinf(half) & np.isfinite(rows)).any()):
            raise UnsupportedError("dtype: a value is beyond float16; use float32")
        return half
    return rows.astype(np.float32, copy=False)


def condition_block(condition: Rows | None, low: int, high: int) -> Rows | None:
    """What :func:`condition_rows` gave, for rows low to high: (high - low, dim), or (dim,) for all."""
    if condition is None:
        return None
    return condition[low:high] if len(condition) > 1 else condition[0]


def condition_rows(condition: Any, engine: Engine, n: int, *plans: str) -> Rows | None:
    """The condition of a job that runs these ``plans`` as vectors, (n, dim) or (1, dim) for all rows.

    Raises:
        InputError: it does not fit the model, or ``n``.
    """
    if condition is None and not any(map(engine.is_conditional, plans)):
        return None
    spec = engine.spec.condition
    dim = None if spec is None else spec.dim
    dtype = torch.float64 if engine.dtype == torch.float64 else torch.float32
    vectors = check_condition(condition, n, dim, device=torch.device("cpu"), dtype=dtype).vectors
    return None if vectors is None else vectors.numpy()


def condition_hash(condition: Rows | None) -> str:
    """SHA-256 of a condition; empty if there is none."""
    if condition is None:
        return ""
    head = f"{condition.dtype}:{condition.shape};".encode()
    return hashlib.sha256(head + np.ascontiguousarray(condition).tobytes()).hexdigest()


def check_dtype(dtype: str, engine: Engine, output: str = "mean") -> None:
    """Refuse a dtype that the model's outputs have no form in.

    Raises:
        InputError: uint8 for a model of which nothing says what is black and white, or for draws not in [0, 1].
    """
    known = engine.head.unit_interval if output == "sample" else black_and_white(engine.spec) is not None
    if dtype == "uint8" and not known:
        raise InputError(
            f"dtype: uint8 needs outputs in [0, 1], or means in spec.pixel_range, and this model's likelihood is "
            f"{engine.spec.likelihood.kind}; use float32 or float16"
        )
