"""Give every weight its final dtype, device and memory layout; the last pass, as the others work in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fastvae.plan.plan import Plan

# The axes of a convolution's weight, outermost first, as kernels read it.
ORDERS = {
    **dict.fromkeys(("conv2d", "conv2d_statistics", "conv_image", "conv_score"), (0, 2, 3, 1)),
    "conv_transpose2d": (1, 2, 3, 0),
}


def cast(
    plan: Plan,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    share: Callable[[Tensor], Tensor] | None = None,
    innermost: bool = False,
) -> Plan:
    """The plan with contiguous weights of ``dtype`` on ``device``.

    With ``innermost`` those of convolutions lie in memory as kernels read them, (outputs, height, width, inputs), under
    the shapes they have. ``share`` gives the tensor to use for a finished weight, so that plans with equal ones need
    not each hold a copy.
    """
    orders = {str(step.inputs[1]): ORDERS[step.op] for step in plan.steps if innermost and step.op in ORDERS}
    weights = {}
    for name, weight in plan.weights.items():
        order = orders.get(name, tuple(range(weight.ndim)))
        finished = weight.detach().to(device=device, dtype=dtype).permute(order).contiguous()
        kept = share(finished) if share else finished
        weights[name] = kept.permute(tuple(order.index(axis) for axis in range(len(order))))
    return replace(plan, weights=weights)
