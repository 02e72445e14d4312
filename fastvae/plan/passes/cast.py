"""Give every weight its final dtype, device and memory layout; the last pass, as the others work in float64."""

from __future__ import annotations

from dataclasses import replace

import torch

from fastvae.plan.plan import Plan


def cast(plan: Plan, *, dtype: torch.dtype, device: torch.device | str) -> Plan:
    """The plan with contiguous weights of ``dtype`` on ``device``."""
    weights = {
        name: weight.detach().to(device=device, dtype=dtype).contiguous() for name, weight in plan.weights.items()
    }
    return replace(plan, weights=weights)
