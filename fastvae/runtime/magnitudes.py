"""How large the numbers between the steps of a plan get, where float16 may not hold them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastvae.model import Model
from fastvae.plan import Plan, Step, Target, build_plan
from fastvae.plan.passes.rescale import LIMIT, scalable
from fastvae.runtime.executor import Draw, Executor
from fastvae.runtime.trial import run_once, small

# Of float32's range in half the memory; how exact a magnitude is does not matter.
WIDE = torch.bfloat16

logger = logging.getLogger("fastvae")


def magnitudes(
    model: Model, verb: str, *, target: Target, impl: str, device: torch.device, batch_invariant: bool
) -> dict[str, float]:
    """The largest magnitude of each buffer that can be rescaled, of a small image of noise; says in the log which will.

    Sizes of images make no other buffers, so they are those of the plan for any.
    """
    model = replace(model, spec=small(model.spec))
    plan = build_plan(model, verb, target=target, dtype=WIDE, device=device, batch_invariant=batch_invariant)
    names = frozenset().union(*scalable(plan))
    if not names:
        return {}
    executor = _Measuring(plan, names, impl=impl, device=device)
    run_once(executor, device, WIDE)
    beyond = {name: most for name, most in executor.largest.items() if most > LIMIT}
    if beyond:
        text = "precision='fp16': %d buffers of %s are stored divided by powers of two, the largest of up to %.3g"
        logger.info(text, len(beyond), verb, max(beyond.values()))
    return executor.largest


class _Measuring(Executor):
    """Runs a plan and keeps the largest magnitude of some buffers."""

    def __init__(self, plan: Plan, names: frozenset[str], *, impl: str, device: torch.device) -> None:
        super().__init__(plan, impl=impl, device=device, dtype=WIDE)
        self._names = names
        self.largest: dict[str, float] = {}

    def _run(self, step: Step, operands: list[Any], keywords: dict[str, Any], draw: Draw | None) -> tuple[Tensor, ...]:
        results = super()._run(step, operands, keywords, draw)
        for name, result in zip(step.outputs, results, strict=True):
            if name in self._names and result.numel():
                self.largest[name] = float(result.abs().max())
        return results
