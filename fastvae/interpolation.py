"""Decoding the points of paths between latents."""

from __future__ import annotations

from typing import Any

import torch

from fastvae import noise
from fastvae.arrays import Array
from fastvae.errors import InputError
from fastvae.paths import between, check_path
from fastvae.runtime.memory import in_batches
from fastvae.walk import Walker


def check_interpolation(steps: int, space: str, path: str) -> int:
    """``steps`` as an int.

    Raises:
        InputError: an argument out of range.
    """
    check_path(path)
    steps = noise.check_count("steps", steps, least=2)
    if space not in ("input", "latent"):
        raise InputError(f"space: expected 'input' or 'latent', got {space!r}")
    return steps


def interpolated(walker: Walker, a: Array, b: Array, steps: int, path: str, condition: Any) -> Array:
    """``steps`` points between each two latents, decoded: (rows, steps, *input_shape).

    Args:
        a, b: latents, (rows, *latent_shape).
        steps, path: as :func:`check_interpolation` leaves them.

    Raises:
        InputError: an argument of the wrong kind, shape, dtype or range, or as many rows not in both.
    """
    engine = walker.engine
    first, last = walker.latents("a", a), walker.latents("b", b)
    if len(first) != len(last):
        raise InputError(f"b: expected as many rows as a, {len(first)}, got {len(last)}")
    verb = engine.for_caller("decode")
    conditions = walker.conditions(condition, len(first), verb)
    result = walker.empty(len(first), steps, *engine.spec.input_shape)
    points = result.flatten(0, 1)
    weights = torch.linspace(0, 1, steps, dtype=engine.dtype, device=engine.device)

    def compute(low: int, high: int) -> None:
        # Points low to high lie between the rows first_row to last_row - 1.
        first_row, last_row = low // steps, (high - 1) // steps + 1
        point = torch.arange(low, high, device=engine.device)
        row = point // steps - first_row
        a_block, b_block = first.block(first_row, last_row)[row], last.block(first_row, last_row)[row]
        vectors = conditions.block(first_row, last_row)
        vectors = None if vectors is None else vectors[row]
        z = between(a_block, b_block, weights[point % steps], path)
        points[low:high] = engine.decode(z, vectors, verb=verb)

    in_batches(engine.batches, [verb], 0, len(points), lambda: engine.batches.rows(verb), compute)
    return first.like(result)
