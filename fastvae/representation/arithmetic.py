"""Arithmetic with latents: the direction of an attribute, and steps along it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastvae.errors import InputError
from fastvae.representation import _checks


def attribute_vector(z_with: NDArray[Any], z_without: NDArray[Any]) -> NDArray[np.float32]:
    """The direction of an attribute: the mean latent of rows that have it minus that of rows that do not.

    As in Larsen et al. 2016 (arXiv:1512.09300). The mean over rows balances what else differs only if it is as
    frequent on both sides.

    Args:
        z_with, z_without: latents (rows, *latent_shape), such as ``vae.embed`` gives.

    Returns:
        (*latent_shape,).

    Raises:
        InputError: an argument that is no latents, without rows, or of another shape than the other.
    """
    with_it, without = _checks.latents("z_with", z_with), _checks.latents("z_without", z_without)
    if z_with.shape[1:] != z_without.shape[1:]:
        raise InputError(f"z_without: expected rows of shape {z_with.shape[1:]} as z_with, got {z_without.shape[1:]}")
    vector: NDArray[np.float32] = (with_it.mean(0) - without.mean(0)).reshape(z_with.shape[1:]).astype(np.float32)
    return vector


def along(z: NDArray[Any], vector: NDArray[Any], strengths: Sequence[float] = (1.0,)) -> NDArray[np.float32]:
    """Latents moved along ``vector`` by each of ``strengths``; 0 leaves them, -1 takes the attribute away.

    Args:
        z: latents (rows, *latent_shape).
        vector: (*latent_shape,), such as :func:`attribute_vector` gives.

    Returns:
        (rows, strengths, *latent_shape): flatten the first two axes for ``vae.decode``.

    Raises:
        InputError: an argument of another shape, or that holds NaN or Inf.
    """
    rows = _checks.latents("z", z, least=0)
    direction = _checks.latents("vector", np.asarray(vector)[None])
    if direction.shape[1] != rows.shape[1]:
        raise InputError(f"vector: expected the shape of a latent, {z.shape[1:]}, got {np.shape(vector)}")
    steps = np.array([_checks.number("strengths", strength) for strength in strengths])
    moved = rows[:, None] + steps[:, None] * direction
    return moved.reshape(len(rows), len(steps), *z.shape[1:]).astype(np.float32)
