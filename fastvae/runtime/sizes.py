"""One plan for images of any size: its steps stay, only the shapes of what they make differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from fastvae.layers import Shape
from fastvae.plan import Plan
from fastvae.runtime.executor import Executor

META = torch.device("meta")


def resized(plan: Plan, inputs: Mapping[str, Shape], dtype: torch.dtype) -> Plan:
    """``plan`` for inputs of these shapes of a row; what its steps make is shaped accordingly, without computing.

    They must fit images of any size.
    """
    weights = {name: weight.to(META) for name, weight in plan.weights.items()}
    everything = replace(plan, outputs=tuple(plan.shapes), weights=weights)
    dtypes = {name: torch.bool if name == "mask" else dtype for name in plan.inputs}
    given = {name: torch.empty(1, *inputs[name], dtype=dtypes[name], device=META) for name in plan.inputs}
    made = Executor(everything, impl="reference", device=META, dtype=dtype)(given)
    shapes = {name: tuple(row.shape[1:]) for name, row in zip(everything.outputs, made, strict=True)}
    return replace(plan, shapes=shapes)
