"""Give every weight its final dtype, device and memory layout; the last pass, as the others work in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fastvae.plan.plan import Plan


def cast(
    plan: Plan, *, dtype: torch.dtype, device: torch.device | str, share: Callable[[Tensor], Tensor] | None = None
) -> Plan:
    """The plan with contiguous weights of ``dtype`` on ``device``.

    ``share`` gives the tensor to use for a finished weight, so that plans with equal ones need not each hold a copy.
    """
    weights = {}
    for name, weight in plan.weights.items():
        finished = weight.detach().to(device=device, dtype=dtype).contiguous()
        weights[name] = share(finished) if share else finished
    return replace(plan, weights=weights)
