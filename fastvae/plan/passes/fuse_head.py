"""Fuse a Gaussian head with its divergence from the prior: ``gaussian_head`` keeps both halves on chip for the KL.

What goes to memory is the mean (the op's z, for it gets no seed) and one number a row; the log-variance never does.
The pass knows heads as ``merge_heads`` leaves them: a linear layer and a split.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastvae.plan.passes._rewrite import is_linear, is_product, rebuilt, rewrite, source
from fastvae.plan.passes.prune import prune
from fastvae.plan.plan import Plan, Step
from fastvae_kernels import split_head


@dataclass(frozen=True)
class _Head:
    """What stands between a hidden layer and its kl: linear, split and, on the log-variance's way, limits."""

    linear: Step
    split: Step
    limits: dict[str, float | None]


def fuse_head(plan: Plan) -> Plan:
    """The plan with linear, split, clamp and kl as one step, where nothing but kl reads the log-variance."""
    return rewrite(plan, _fused)


def _fused(plan: Plan, index: int) -> Plan | None:
    kl = plan.steps[index]
    head = _head(plan, kl) if kl.op == "kl" else None
    if head is None:
        return None
    mean = head.split.outputs[0]
    layout = head.split.attributes["layout"]
    derived: dict[str, Tensor] = {}
    operands: list[tuple[str | None, str | None]] = []
    for role, name in (("weight", head.linear.inputs[1]), ("bias", head.linear.inputs[2])):
        names = (f"d:{mean}.mean_{role}", f"d:{mean}.logvar_{role}")
        if name is not None:
            derived |= dict(zip(names, split_head(plan.weights[name], layout), strict=True))
        operands.append((None, None) if name is None else names)
    (mean_weight, logvar_weight), (mean_bias, logvar_bias) = operands
    inputs = (head.linear.inputs[0], mean_weight, mean_bias, logvar_weight, logvar_bias)
    fused = Step("gaussian_head", inputs, (mean, kl.outputs[0]), head.limits)
    steps = [fused if step is head.linear else step for step in plan.steps if step not in (head.split, kl)]
    return prune(rebuilt(plan, steps, derived))


def _head(plan: Plan, kl: Step) -> _Head | None:
    """The head whose mean and log-variance ``kl`` reads, if it is one that can be fused."""
    limits: dict[str, float | None] = {"minimum": None, "maximum": None}
    before = source(plan, str(kl.inputs[1]))
    if before is not None and plan.steps[before].op == "logvar":
        step = plan.steps[before]
        if step.attributes["parametrization"] != "logvar":
            return None
        limits = {name: step.attributes[name] for name in limits}
        before = source(plan, str(step.inputs[0]))
    if before is None or plan.steps[before].op != "split":
        return None
    split = plan.steps[before]
    is_second = _origin(plan, str(kl.inputs[1])) == split.outputs[1]
    if not is_second or _origin(plan, str(kl.inputs[0])) != split.outputs[0]:
        return None
    joint = source(plan, str(split.inputs[0]))
    if joint is None or plan.steps[joint].op != "linear" or plan.maker(str(split.inputs[0])) != joint:
        return None
    linear = plan.steps[joint]
    return _Head(linear, split, limits) if is_product(linear) and is_linear(linear) else None


def _origin(plan: Plan, name: str) -> str:
    """The buffer that ``name`` is a reshape or a log-variance of."""
    while (index := plan.maker(name)) is not None and plan.steps[index].op in ("reshape", "logvar"):
        name = str(plan.steps[index].inputs[0])
    return name
