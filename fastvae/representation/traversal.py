"""Latent traversals: what each latent dimension does to what is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

import fastvae
from fastvae.errors import InputError, UnsupportedError
from fastvae.noise import check_count
from fastvae.representation import _checks
from fastvae.spec import PointHead


def traverse(
    vae: fastvae.VAE,
    rows: NDArray[Any] | None = None,
    dims: Sequence[int] | None = None,
    steps: int = 7,
    *,
    low: float = -3.0,
    high: float = 3.0,
    unit: Literal["prior", "posterior"] = "prior",
    spacing: Literal["linear", "quantile"] = "linear",
    space: Literal["input", "latent"] = "input",
    condition: Any = None,
) -> NDArray[Any]:
    """Decode points along one latent dimension at a time, the others left where they are.

    A point is a standard score s from ``low`` to ``high``, that is the quantile Φ(s) of a normal distribution: of the
    prior N(0, 1), where the dimension takes the value s, or of the row's own posterior, where it takes mean + std * s.
    Latents are as ``vae.encode`` has them: of a model loaded with ``scaled_latents`` s is in units of the scaled ones.

    Args:
        rows: data whose posterior means are left from, or latents with ``space="latent"``; None: the prior's mean, 0.
        dims: latent dimensions, counted over the flattened latent; None: all, in order.
        steps: points a dimension, both ends included; at least 2.
        unit: ``prior`` or ``posterior``, see above; the latter needs rows of data.
        spacing: scores evenly spaced, or evenly spaced probabilities Φ(s).
        condition: for conditional models: one for all, or one for each of ``rows``.

    Returns:
        (rows, dims, steps, *input_shape); rows is 1 if ``rows`` is None.

    Raises:
        InputError: an argument of the wrong kind, shape or range.
        UnsupportedError: ``unit="posterior"`` of a deterministic encoder.
    """
    steps = check_count("steps", steps, least=2)
    scores = _scores(_checks.number("low", low), _checks.number("high", high), steps, spacing)
    if unit not in ("prior", "posterior"):
        raise InputError(f"unit: expected 'prior' or 'posterior', got {unit!r:.80}")
    mean, std = _from(vae, rows, unit, space, condition)
    chosen = _checks.dimensions(dims, mean[0].size if len(mean) else vae.spec.latent_dim)
    count, shape = len(mean), mean.shape[1:]
    z = np.repeat(mean.reshape(count, 1, 1, -1), len(chosen), 1).repeat(steps, 2)
    for place, dim in enumerate(chosen):
        centre, width = (x.reshape(count, -1)[:, dim, None] for x in (mean, std))
        z[:, place, :, dim] = scores if unit == "prior" else centre + width * scores
    repeated = _each(condition, count, len(chosen) * steps)
    decoded = vae.decode(z.reshape(-1, *shape), condition=repeated)
    return np.asarray(decoded).reshape(count, len(chosen), steps, *decoded.shape[1:])


def _scores(low: float, high: float, steps: int, spacing: str) -> NDArray[np.float32]:
    """Standard scores from ``low`` to ``high``."""
    if not low < high:
        raise InputError(f"low, high: expected ascending numbers, got {low} and {high}")
    if spacing not in ("linear", "quantile"):
        raise InputError(f"spacing: expected 'linear' or 'quantile', got {spacing!r:.80}")
    if spacing == "linear":
        return np.linspace(low, high, steps, dtype=np.float32)
    ends = torch.special.ndtr(torch.tensor([low, high], dtype=torch.float64))
    inner = torch.special.ndtri(torch.linspace(float(ends[0]), float(ends[1]), steps, dtype=torch.float64))
    inner[0], inner[-1] = low, high
    scores: NDArray[np.float32] = inner.float().numpy()
    return scores


def _from(
    vae: fastvae.VAE, rows: NDArray[Any] | None, unit: str, space: str, condition: Any
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where traversals leave from and the posterior's standard deviations there, (rows, *latent_shape) each."""
    if space not in ("input", "latent"):
        raise InputError(f"space: expected 'input' or 'latent', got {space!r:.80}")
    if unit == "posterior" and (rows is None or space == "latent"):
        raise InputError("unit: 'posterior' needs rows of data, whose posteriors they are; take 'prior'")
    if unit == "posterior" and isinstance(vae.spec.posterior, PointHead):
        raise UnsupportedError("unit 'posterior': this model's encoder is deterministic; take 'prior'")
    if rows is None:
        start = np.zeros((1, *vae.spec.latent_shape), np.float32)
        return start, start
    if not isinstance(rows, np.ndarray):
        raise InputError(f"rows: expected a NumPy array, got {type(rows).__name__}")
    if space == "latent":
        _checks.latents("rows", rows, least=0)
        return rows.astype(np.float32), np.zeros(rows.shape, np.float32)
    posterior = vae.encode(rows, condition=condition)
    return posterior.mean, np.exp(posterior.logvar / 2)


def _each(condition: Any, rows: int, times: int) -> Any:
    """The condition of every row ``times`` times over; one for all stays as it is."""
    if not isinstance(condition, np.ndarray) or condition.ndim == 0 or len(condition) != rows:
        return condition
    per_row = condition.ndim == 2 or condition.dtype.kind in "iu"
    return condition.repeat(times, 0) if per_row else condition
