"""Which convolutions of a model bear 8 bits: those whose error, measured on rows of noise, is small."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import fastvae_kernels
from fastvae.model import Model
from fastvae.plan import Plan, Step, build_plan
from fastvae.plan.passes.use_fp8 import (
    CONVOLUTIONS,
    LARGEST,
    eight_bit_weight,
    layer_of,
    norms_before_convolutions,
    out_scale,
    use_fp8,
)
from fastvae.runtime.executor import Draw, Executor
from fastvae.runtime.trial import run_once, small

# The most that a convolution's result may be off, relative to its size. Rounding both operands to four significant bits
# is off by sqrt(2 / 3) / 16 = 5 % where terms are independent, and more where they cancel.
TOLERANCE = 1 / 16
# The verbs that between them have every layer.
MEASURED = ("encode", "parameters")

logger = logging.getLogger("fastvae")


def layers_that_bear(model: Model, *, impl: str, device: torch.device, dtype: torch.dtype) -> frozenset[str]:
    """The norms of a model, as ``layer_of`` calls them, whose convolutions are within TOLERANCE on one row of noise.

    Layers are those of the model, not of a verb's plan, so that all verbs and tiles choose the same. They are measured
    on a small image, where the model takes one.
    """
    model = replace(model, spec=small(model.spec))
    errors: dict[str, float] = {}
    for verb in MEASURED:
        plan = build_plan(model, verb, dtype=dtype, device=device)
        norms = norms_before_convolutions(plan)
        for name, error in measured_errors(plan, norms, impl=impl, device=device, dtype=dtype).items():
            layer = layer_of(plan, name)
            errors[layer] = max(error, errors.get(layer, 0.0))
    good = [layer for layer, error in errors.items() if error <= TOLERANCE]
    kept = [f"{_name(layer)} ({error:.1%})" for layer, error in errors.items() if layer not in good]
    logger.info(
        "precision='fp8': %d of %d norms in 8 bits%s",
        len(good),
        len(errors),
        f"; in 16, for their convolutions' error: {', '.join(kept)}" if kept else "",
    )
    return frozenset(good)


def in_eight_bits(plan: Plan, layers: Collection[str]) -> Plan:
    """The plan with convolutions in 8 bits after those norms of it that ``layers`` has."""
    return use_fp8(plan, [name for name in norms_before_convolutions(plan) if layer_of(plan, name) in layers])


def _name(layer: str) -> str:
    """Of a norm, for people."""
    return layer.removeprefix("w:").removesuffix(".weight")


def measured_errors(
    plan: Plan, norms: tuple[str, ...], *, impl: str, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """For each norm the largest error of the convolutions that read it, relative to the root mean square of theirs."""
    executor = _Measuring(plan, norms, impl=impl, device=device, dtype=dtype)
    run_once(executor, device, dtype)
    return executor.errors


class _Measuring(Executor):
    """Runs a plan as it is, and beside it convolutions that read some norms in 8 bits."""

    def __init__(
        self, plan: Plan, norms: tuple[str, ...], *, impl: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(plan, impl=impl, device=device, dtype=dtype)
        makers = {step.outputs[0]: step for step in plan.steps}
        self._scales = {name: out_scale(plan, makers[name]) for name in norms}
        self.errors = dict.fromkeys(norms, 0.0)

    def _run(self, step: Step, operands: list[Any], keywords: dict[str, Any], draw: Draw | None) -> tuple[Tensor, ...]:
        name = step.inputs[0] if step.inputs else None
        if step.op in CONVOLUTIONS and name in self._scales:
            error = self._error(step, operands[0], operands[1], self._scales[name])
            self.errors[name] = max(self.errors[name], error)
        return super()._run(step, operands, keywords, draw)

    def _error(self, step: Step, x: Tensor, weight: Tensor, scale: float) -> float:
        """Of the products alone: a bias or a residual would hide what is lost."""
        window = {name: step.attributes[name] for name in ("stride", "padding", "dilation")}
        impl = self._impl[step.op]
        exact = fastvae_kernels.conv2d(x, weight, **window, impl=impl).float()
        q, factors = eight_bit_weight(weight, scale)
        image = (x.float() / scale).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
        found = fastvae_kernels.conv2d(image, q, scale=factors, out_dtype=torch.float32, **window, impl=impl)
        return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt().clamp_min(1e-30))
