"""Paths between latents: straight, or along the sphere."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from fastvae.errors import InputError

PATHS: Final = ("linear", "spherical")
# Below this sine of the angle between two directions, opposite ones leave the great circle open (float64 arithmetic).
OPPOSITE: Final = 1e-12


def check_path(path: str) -> None:
    """InputError if ``path`` is none of PATHS."""
    if not isinstance(path, str) or path not in PATHS:
        raise InputError(f"path: expected {' or '.join(map(repr, PATHS))}, got {path!r:.80}")


def between(a: Tensor, b: Tensor, weight: Tensor, path: str) -> Tensor:
    """The points at ``weight`` of the way from ``a`` to ``b``.

    Args:
        a, b: (rows, *shape) floats.
        weight: (rows,) from 0, which gives ``a`` exactly, to 1, which gives ``b``.
        path: ``linear``, or ``spherical``: the direction turns at a constant rate in the plane of both, as Shoemake's
            slerp (1985) does, while the length goes straight from that of ``a`` to that of ``b``. Opposite directions
            turn through the axis that both are farthest from; a vector of zeros has the direction of the other.

    Returns:
        (rows, *shape) in the dtype of ``a``.
    """
    columns = weight.reshape(-1, *[1] * (a.ndim - 1))
    if path == "linear":
        return torch.lerp(a, b, columns)
    points = _on_sphere(a.flatten(1).double(), b.flatten(1).double(), weight.double()[:, None])
    points = points.to(a.dtype).reshape(a.shape)
    return torch.where(columns == 0, a, torch.where(columns == 1, b, points))


def _on_sphere(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Spherical points of float64 vectors (rows, dims) at ``weight`` (rows, 1)."""
    a_length, b_length = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (a, b))
    start = torch.where(a_length > 0, a / a_length, b / b_length).nan_to_num(0.0)
    end = torch.where(b_length > 0, b / b_length, start)
    cosine = (start * end).sum(1, keepdim=True)
    sideways = end - cosine * start
    sine = torch.linalg.vector_norm(sideways, dim=1, keepdim=True)
    opposite = (sine < OPPOSITE) & (cosine < 0)
    turned = torch.where(opposite, _perpendicular(start), (sideways / sine).nan_to_num(0.0))
    angle = weight * torch.where(opposite, torch.pi, torch.atan2(sine, cosine))
    return torch.lerp(a_length, b_length, weight) * (angle.cos() * start + angle.sin() * turned)


def _perpendicular(direction: Tensor) -> Tensor:
    """Unit vectors at right angles to unit vectors (rows, dims): the axis farthest from each, made orthogonal.

    In one dimension there is none: zeros, so that the path goes through the origin.
    """
    axis = torch.nn.functional.one_hot(direction.abs().argmin(1), direction.shape[1]).to(direction)
    rest = axis - (axis * direction).sum(1, keepdim=True) * direction
    unit: Tensor = rest / torch.linalg.vector_norm(rest, dim=1, keepdim=True)
    return unit.nan_to_num(0.0)
