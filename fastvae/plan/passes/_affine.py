"""Scale and shift as vectors over a product's channels, in float64: what both directions of folding need."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvae.layers import Shape
from fastvae.plan.plan import Plan, Step


def has_parameters(step: Step) -> bool:
    """Whether an affine step scales or shifts, rather than only applying an activation."""
    return step.op == "affine" and step.inputs[1:] != (None, None)


def channel_vectors(plan: Plan, step: Step, shape: Shape) -> tuple[Tensor, Tensor] | None:
    """Scale and shift of an affine step, one number for each first-axis entry of its rows reshaped to ``shape``.

    None if an entry of that axis would need several numbers. Absent parameters are ones and zeros.
    """
    row = plan.shapes[step.outputs[0]]
    vectors = []
    for name, default in zip(step.inputs[1:], (1.0, 0.0), strict=True):
        value = torch.tensor(default, dtype=torch.float64) if name is None else plan.weights[name].double()
        if value.ndim == 1:
            value = value.reshape(-1, *[1] * (len(row) - 1))
        entries = value.expand(row).reshape(shape[0], -1)
        if not torch.equal(entries, entries[:, :1].expand_as(entries)):
            return None
        vectors.append(entries[:, 0].clone())
    return vectors[0], vectors[1]
