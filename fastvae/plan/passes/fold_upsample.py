"""Fold nearest-neighbour upsampling by 2 into the 3x3 convolution after it, as one transposed convolution.

Each output pixel sees two of the pixels before upsampling in each direction, not three: next to a pixel's own weight,
those of its copies add up. So four of nine multiplications are left, and the larger image between the two is never
made. Summed in float64.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastvae.plan.passes._rewrite import is_product, rebuilt, rewrite
from fastvae.plan.plan import Plan, Step

PLAIN = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
TRANSPOSED = {"stride": (2, 2), "padding": (1, 1), "output_padding": (0, 0), "dilation": (1, 1), "groups": 1}
# Which of the three taps meet at each of the transposed kernel's four, in one direction.
TAPS = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float64)


def fold_upsample(plan: Plan) -> Plan:
    """The plan with each upsampling that only a 3x3 convolution reads made part of it."""
    return rewrite(plan, _folded)


def _folded(plan: Plan, index: int) -> Plan | None:
    step = plan.steps[index]
    if not (step.op == "conv2d" and is_product(step) and _is_plain(step)):
        return None
    name = str(step.inputs[0])
    before, weight = plan.maker(name), plan.weights[str(step.inputs[1])]
    if before is None or plan.uses()[name] > 1 or tuple(weight.shape[2:]) != (3, 3):
        return None
    upsample = plan.steps[before]
    if upsample.op != "upsample" or upsample.attributes["factor"] != 2:
        return None
    kernel = f"d:{step.outputs[0]}.upsampling"
    rest = {key: value for key, value in step.attributes.items() if key not in PLAIN}
    inputs = (upsample.inputs[0], kernel, step.inputs[2])
    steps = list(plan.steps)
    steps[index] = replace(step, op="conv_transpose2d", inputs=inputs, attributes={**TRANSPOSED, **rest})
    del steps[before]
    return rebuilt(plan, steps, {kernel: transposed_kernel(weight)})


def _is_plain(step: Step) -> bool:
    return all(step.attributes[key] == value for key, value in PLAIN.items())


def transposed_kernel(weight: Tensor) -> Tensor:
    """[in, out, 4, 4] for the transposed convolution from [out, in, 3, 3] for the plain one, in float64."""
    taps = TAPS.to(weight.device)
    kernel: Tensor = torch.einsum("ka,lb,oiab->iokl", taps, taps, weight.double())
    return kernel
