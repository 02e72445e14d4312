"""Buffers divided by powers of two: every output keeps its bits in float32, and only what may be divided is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastvae.layers import Activation, Attention, Conv2d, GroupNorm, Layer, Residual, Upsample
from fastvae.plan import Plan, Target, build_plan
from fastvae.plan.passes.rescale import LIMIT, rescale, scalable
from fastvae.spec import ModelSpec
from tests.fastvae.image_specs import image_spec, wide_image_spec
from tests.fastvae.strategies import specs
from tests.fastvae.support import inputs_of, random_model, residual_spec, run_plan

TARGETS: tuple[Target, ...] = ("reference", "triton")
SILU, NORM = Activation("silu"), GroupNorm("n", 4, 2)


def conv(name: str, inputs: int = 4, outputs: int = 4) -> Conv2d:
    return Conv2d(name, inputs, outputs, (3, 3), padding=(1, 1))


def decoder(*layers: Layer) -> Plan:
    """The plan of these layers between a convolution of latents to 4 channels, and one to an image of 3."""
    scale = 2 ** sum(isinstance(layer, Upsample) for layer in layers)
    spec = replace(
        image_spec(),
        input_shape=(3, 4 * scale, 4 * scale),
        encoder=(Conv2d("e", 3, 4, (1, 1), (scale, scale)),),
        decoder=(conv("first", 2), *layers, conv("last", outputs=3)),
    )
    return build_plan(random_model(spec), "decode", dtype=torch.float32)


def assert_bits(spec: ModelSpec, verb: str, target: Target, dtype: torch.dtype, exponents: st.DataObject | int) -> None:
    model, inputs = random_model(spec), inputs_of(spec)
    inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    plan = build_plan(model, verb, target=target, dtype=dtype)
    largest = {}
    for group in scalable(build_plan(model, verb, target=target, dtype=dtype)):
        power = exponents if isinstance(exponents, int) else exponents.draw(st.integers(-3, 12))
        largest[min(group)] = LIMIT * 2.0**power
    made = build_plan(model, verb, target=target, dtype=dtype, largest=largest)
    assert [step.op for step in made.steps] == [step.op for step in plan.steps]
    for found, expected in zip(run_plan(made, inputs), run_plan(plan, inputs), strict=True):
        assert torch.equal(found.nan_to_num(0.5), expected.nan_to_num(0.5))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("verb", ["encode", "parameters", "elbo"])
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(spec=specs(), exponents=st.data())
def test_every_output_keeps_its_bits(verb: str, target: Target, spec: ModelSpec, exponents: st.DataObject) -> None:
    """In float64: what is folded into the weights of random models may be as small as you like."""
    assert_bits(replace(spec, dtype="float64"), verb, target, torch.float64, exponents)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("spec", [image_spec(), wide_image_spec(), residual_spec()], ids=["attention", "wide", "mlp"])
def test_bits_of_float32(spec: ModelSpec, target: Target) -> None:
    for verb in ("decode", "reconstruct", "score"):
        assert_bits(spec, verb, target, torch.float32, 7)


def test_a_stream_of_residual_blocks_has_one_factor() -> None:
    """With what branches add; norms end it, and so does a convolution, whose result has a factor of its own."""
    block = Residual((GroupNorm("b.n", 4, 2), SILU, conv("b.c")))
    plan = decoder(block, conv("next"), NORM, SILU)
    first, branch, total, after = (
        next(step.outputs[0] for step in plan.steps if f"{name}.weight" in str(step.reads))
        if name != "add"
        else next(step.outputs[0] for step in plan.steps if step.op == "add")
        for name in ("first", "b.c", "add", "next")
    )
    assert set(scalable(plan)) == {frozenset({first, branch, total}), frozenset({after})}
    made = rescale(plan, {branch: 8 * LIMIT, after: 3 * LIMIT})
    weight = {step.outputs[0]: made.weights[str(step.inputs[1])] for step in made.steps if step.op == "conv2d"}
    old = {step.outputs[0]: plan.weights[str(step.inputs[1])] for step in plan.steps if step.op == "conv2d"}
    factors = {name: float((weight[name] / old[name]).mean()) for name in weight}
    assert [factors[name] for name in (first, branch, after)] == [1 / 8, 1 / 8, 8 / 4]
    assert [step.attributes["eps"] for step in made.steps if step.op == "group_norm"] == [1e-5 / 64, 1e-5 / 16]


@pytest.mark.parametrize(
    ("layers", "groups"),
    [
        ((NORM,), 1),
        ((Activation("relu"), NORM), 1),
        ((SILU, NORM), 0),
        ((Upsample(), conv("c"), NORM), 2),
        ((Residual((Attention("a", 4),)), NORM), 1),
        ((Residual((replace(NORM, name="m"), Attention("a", 4))), NORM), 1),
        ((replace(NORM, name="m"), Residual((Attention("a", 4),)), NORM), 1),
        ((), 1),
    ],
    ids=["norm", "relu", "silu", "upsample", "attention", "normed", "of a norm", "last"],
)
def test_what_may_have_a_factor(layers: tuple[Layer, ...], groups: int) -> None:
    """Not what an activation bends, nor what is handed over or back, nor queries, keys, or what a norm gives."""
    plan = decoder(*layers)
    assert len(scalable(plan)) == groups
    free = frozenset().union(*scalable(plan))
    makers = {name: step for step in plan.steps for name in step.outputs}
    assert all(makers[name].op not in ("group_norm", "affine") for name in free)
    for step in plan.steps:
        if step.op == "attention":
            assert free.isdisjoint(str(name) for name in step.inputs[:2])


def test_only_what_is_too_large_is_divided() -> None:
    plan = decoder(NORM)
    (group,) = scalable(plan)
    name = min(group)
    assert rescale(plan, {}) is plan
    assert rescale(plan, {name: LIMIT, plan.outputs[0]: 2 * LIMIT, "nothing": 1e9}) is plan
    assert rescale(plan, {name: math.inf}) is plan
    assert rescale(plan, {name: 1.01 * LIMIT}).weights.keys() != plan.weights.keys()
