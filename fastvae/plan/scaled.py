"""Verbs that give or take latents as a diffusion model has them: shifted and scaled by ``spec.latent_scaling``.

A scaled plan is the plain one with affine steps at its latents, which the passes fold into the products beside them
where that is exact. Scaling by positive factors makes a diagonal Gaussian another one: its mean is scaled as latents
are, and its log-variance grows by twice the logarithm of the factor.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastvae.errors import UnsupportedError
from fastvae.plan.plan import Plan, Step
from fastvae.spec import ModelSpec, PointHead

# The verbs whose latents are a caller's, and each with scaled ones.
SCALED_VERBS = {"encode": "encode_scaled", "embed": "embed_scaled", "decode": "decode_scaled"}
PLAIN_VERBS = {scaled: plain for plain, scaled in SCALED_VERBS.items()}


def check_scaling(spec: ModelSpec) -> None:
    """Refuse a model of which nothing says how to scale its latents.

    Raises:
        UnsupportedError: it is one.
    """
    if spec.latent_scaling is None:
        raise UnsupportedError(
            "scaled latents: this model's checkpoint does not say how to scale them (scaling_factor with shift_factor, "
            "or with latents_mean and latents_std); pass the numbers as scaled_latents=fastvae.LatentScaling(...)"
        )


def with_scaling(plan: Plan, spec: ModelSpec) -> Plan:
    """The plan of ``encode``, ``embed`` or ``decode``, not yet improved by passes, for scaled latents.

    Raises:
        UnsupportedError: the spec has no numbers to scale by.
    """
    check_scaling(spec)
    assert spec.latent_scaling is not None
    offsets, factors = (
        torch.tensor(vector, dtype=torch.float64) for vector in spec.latent_scaling.vectors(spec.latent_shape[0])
    )
    named = replace(plan, verb=SCALED_VERBS[plan.verb])
    if plan.verb == "decode":
        return _scaled(named, "z", 1 / factors, offsets)
    mean, *logvar = plan.outputs
    halved = next((step for step in plan.steps if step.op == "split" and step.outputs[0] == mean), None)
    scale, shift = factors, -offsets * factors
    if halved is None:
        named = _scaled(named, mean, scale, shift)
    else:
        named = _scaled(named, str(halved.inputs[0]), *_of_joint(scale, shift, str(halved.attributes["layout"])))
    if not logvar or isinstance(spec.posterior, PointHead):  # minus infinity stays what it is
        return named
    return _scaled(named, logvar[0], None, 2 * factors.log())


def _of_joint(scale: Tensor, shift: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """Scale and shift of means for a buffer of means and what makes variances, which stays as it is."""
    axis = 0 if layout == "chunked" else 1
    both = ((scale, torch.ones_like(scale)), (shift, torch.zeros_like(shift)))
    joint_scale, joint_shift = (torch.stack(halves, axis).flatten() for halves in both)
    return joint_scale, joint_shift


def _scaled(plan: Plan, name: str, scale: Tensor | None, shift: Tensor) -> Plan:
    """The plan whose steps and outputs that have the buffer ``name`` find it scaled, by float64 vectors [channels]."""
    made = f"{name}_scaled"
    weights = {f"d:{made}.shift": shift} | ({} if scale is None else {f"d:{made}.scale": scale})
    step = Step("affine", (name, None if scale is None else f"d:{made}.scale", f"d:{made}.shift"), (made,), {})
    first = next((index for index, s in enumerate(plan.steps) if name in s.inputs), len(plan.steps))
    renamed = [replace(s, inputs=tuple(made if x == name else x for x in s.inputs)) for s in plan.steps]
    return replace(
        plan,
        steps=(*renamed[:first], step, *renamed[first:]),
        outputs=tuple(made if x == name else x for x in plan.outputs),
        weights={**plan.weights, **weights},
        shapes={**plan.shapes, made: plan.shapes[name]},
    )
