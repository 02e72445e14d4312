"""Every pass keeps every output, over random models in float64; each pays on the example it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from fastvae.layers import Activation, Affine, BatchNorm, Conv2d, ConvTranspose2d, Flatten, Linear, Reshape
from fastvae.plan import VERBS, Plan, build_plan, plan_cost
from fastvae.plan.build import FUSED_PASSES, PASSES, translate
from fastvae.plan.passes import (
    align_linear,
    cast,
    fold_affine,
    fold_input_affine,
    fuse_activation,
    fuse_bottleneck,
    fuse_head,
    fuse_prior,
    fuse_score,
    merge_heads,
    prune,
)
from fastvae.plan.passes.fuse_bottleneck import MAX_LATENT, MAX_OUTPUTS
from fastvae.spec import Bernoulli, FixedGaussian, GaussianHead, ModelSpec, PerDimensionGaussian
from fastvae_kernels.parts import PARTS
from fastvae_kernels.tiling import shipped_tiles
from tests.fastvae.strategies import specs
from tests.fastvae.support import conv_spec, inputs_of, mlp_spec, predicted_gaussian, random_model, run_plan

Pass = Callable[[Plan], Plan]
ALL: tuple[Pass, ...] = (*PASSES, *FUSED_PASSES, align_linear)


def in_float64(plan: Plan) -> Plan:
    return cast(plan, dtype=torch.float64, device="cpu")


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Equal to 1e-12 of the largest value of each output."""
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        scale = max(1.0, float(b.abs().max()))
        torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize("verb", VERBS)
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(spec=specs())
def test_each_pass_keeps_every_output_and_costs_no_more(verb: str, spec: ModelSpec) -> None:
    model, inputs = random_model(replace(spec, dtype="float64")), inputs_of(spec)
    plan = translate(model, verb)
    expected = run_plan(in_float64(plan), inputs)
    for improve in ALL:
        improved = improve(plan)
        assert_same(run_plan(in_float64(improved), inputs), expected)
        assert improved.outputs == plan.outputs
        written = [name for step in improved.steps for name in step.outputs]
        assert len(written) == len(set(written))
        assert set(improved.shapes) == {*written, *improved.inputs}
        assert set(improved.weights) == {name for step in improved.steps for name in step.reads} - set(improved.shapes)
        if improve is not align_linear:
            before, after = plan_cost(plan), plan_cost(improved)
            assert (after.flops, after.bytes) <= (before.flops, before.bytes)
            assert after.bytes <= before.bytes
        plan = improved
