"""Let convolutions after group norms multiply in 8 bits: the norm writes e4m3, with one scale for the whole image.

Not a pass that keeps outputs: the caller asks for it by precision, and for those norms alone whose convolutions were
measured to bear it. The last of all, since weights have to lie where and as they are used.

A group norm says how large its result can be: of n numbers none is further than sqrt(n - 1) standard deviations from
their mean. REACH is that of 65,537 numbers, and in larger groups at most one number in 65,536 lies beyond (Chebyshev),
which saturates. The scale may be far too large for most values, since e4m3 has its three bits of mantissa over 15
binary orders of magnitude. So it needs no calibration, and is the same for images of any size.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from fastvae.plan.passes._rewrite import rebuilt
from fastvae.plan.plan import Plan, Step

NORMS = ("group_norm", "norm_by_statistics")
CONVOLUTIONS = ("conv2d", "conv2d_statistics")
# Activations that make nothing larger than it was.
BOUNDED = ("identity", "relu", "silu", "gelu", "gelu_tanh")
REACH = 256.0
LARGEST = 448.0
# What kernels read at once has so many 8-bit channels.
CHANNELS = 16


def norms_before_convolutions(plan: Plan) -> tuple[str, ...]:
    """The results of group norms that nothing but convolutions of several taps reads, which could do so in 8 bits."""
    return tuple(step.outputs[0] for step in plan.steps if step.op in NORMS and _fits(plan, step))


def layer_of(plan: Plan, norm: str) -> str:
    """What the norm that makes ``norm`` is called in every plan of its model: its weight, which no pass changes."""
    step = next(step for step in plan.steps if norm in step.outputs)
    return step.inputs[-2] or norm


def use_fp8(plan: Plan, norms: Collection[str]) -> Plan:
    """The plan with these of :func:`norms_before_convolutions` in e4m3."""
    steps: list[Step] = []
    weights: dict[str, Tensor] = {}
    scales: dict[str, float] = {}
    for step in plan.steps:
        if step.op in NORMS and step.outputs[0] in norms:
            scale = scales[step.outputs[0]] = out_scale(plan, step)
            steps.append(replace(step, attributes={**step.attributes, "out_scale": scale}))
        elif step.op in CONVOLUTIONS and step.inputs[0] in scales:
            x, weight, bias = step.inputs
            q, factors = eight_bit_weight(plan.weights[str(weight)], scales[str(x)])
            names = f"d:{step.outputs[0]}.e4m3", f"d:{step.outputs[0]}.scale"
            weights |= dict(zip(names, (q, factors), strict=True))
            attributes = {**step.attributes, "out_dtype": plan.weights[str(weight)].dtype}
            keywords = {**step.keywords, "scale": names[1]}
            steps.append(replace(step, inputs=(x, names[0], bias), attributes=attributes, keywords=keywords))
        else:
            steps.append(step)
    return rebuilt(plan, steps, weights)


def out_scale(plan: Plan, norm: Step) -> float:
    """A power of two by which what the norm gives is divided, so that 448 is out of reach.

    1 where weights have no values (device meta): such plans are looked at, not run.
    """
    weight, bias = (None if name is None else plan.weights[name] for name in norm.inputs[-2:])
    if any(each is not None and each.is_meta for each in (weight, bias)):
        return 1.0
    largest = 1.0 if weight is None else float(weight.abs().max())
    shift = 0.0 if bias is None else float(bias.abs().max())
    bound = REACH * largest + shift
    return 2.0 ** math.ceil(math.log2(bound / LARGEST)) if bound > 0 else 1.0


def eight_bit_weight(weight: Tensor, x_scale: float) -> tuple[Tensor, Tensor]:
    """weight [o, c, kh, kw] in e4m3, and what makes up for that and for an x divided by ``x_scale``: float32 [o].

    Of a weight on device meta both are there as well, for which PyTorch would import a compiler.
    """
    if weight.is_meta:
        return torch.empty_like(weight, dtype=torch.float8_e4m3fn), weight.new_empty(len(weight), dtype=torch.float32)
    wide = weight.float()
    largest = wide.abs().amax((1, 2, 3))
    scale = torch.where(largest > 0, largest / LARGEST, 1.0).clamp_min(torch.finfo(torch.float32).tiny)
    q = (wide / scale[:, None, None, None]).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return q, scale * x_scale


def _fits(plan: Plan, norm: Step) -> bool:
    name = norm.outputs[0]
    if str(norm.attributes.get("activation", "identity")) not in BOUNDED or name in plan.outputs:
        return False
    return all(_takes(plan, step, name) for step in plan.steps if name in step.reads)


def _takes(plan: Plan, step: Step, name: str) -> bool:
    """Whether the step is a convolution of ``name`` that gains: of several taps, from and to many channels."""
    if step.op not in CONVOLUTIONS or step.reads.count(name) != 1 or step.inputs[0] != name:
        return False
    outputs, channels, *taps = plan.weights[str(step.inputs[1])].shape
    whole = step.attributes["groups"] == 1 and channels % CHANNELS == 0 and outputs >= CHANNELS
    return whole and math.prod(taps) > 1
