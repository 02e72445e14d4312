"""Images with channels innermost: the same outputs, and no image op is given anything else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

import fastvae_kernels
from fastvae.layers import Activation, Conv2d, Flatten, Linear, Reshape
from fastvae.plan import VERBS, Plan, Target, build_plan, plan_cost
from fastvae.plan.passes import PASSES, cast, choose_layout
from fastvae.plan.passes.cast import ORDERS
from fastvae.plan.passes.choose_layout import IMAGE_OPS
from fastvae.plan.verbs import translate
from fastvae.spec import Bernoulli, ModelSpec
from tests.fastvae.image_specs import image_spec
from tests.fastvae.strategies import specs
from tests.fastvae.support import conv_spec, gaussian_head, inputs_of, random_model, run_plan


def plans(spec: ModelSpec, verb: str) -> tuple[Plan, Plan]:
    """The improved plan of a random model in float64, and the same with its layout chosen."""
    plan = translate(random_model(replace(spec, dtype="float64")), verb)
    for improve in PASSES:
        plan = improve(plan)
    chosen = choose_layout(plan)
    return cast(plan, dtype=torch.float64, device="cpu"), cast(
        chosen, dtype=torch.float64, device="cpu", innermost=True
    )


@pytest.mark.parametrize("verb", VERBS)
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(spec=specs())
def test_outputs_stay(verb: str, spec: ModelSpec) -> None:
    plan, chosen = plans(spec, verb)
    inputs = inputs_of(spec)
    for found, expected in zip(run_plan(chosen, inputs), run_plan(plan, inputs), strict=True):
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-12)
    again = choose_layout(chosen)
    assert again.steps == chosen.steps
    moved = [step for step in chosen.steps if step.op == "channels_last"]
    assert len(moved) == len({step.inputs for step in moved}), "each image is brought into the order once"
    assert plan_cost(chosen).flops == plan_cost(plan).flops + sum(
        torch.Size(plan.shapes[str(step.inputs[0])]).numel() for step in moved
    )


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Tensor]]:
    """What image ops read of images and weights from now on."""
    seen: list[tuple[str, Tensor]] = []
    for op in IMAGE_OPS:
        run = getattr(fastvae_kernels, op)

        def watch(*operands: Any, run: Any = run, op: str = op, **options: Any) -> Any:
            seen.extend((op, x) for x in operands if isinstance(x, Tensor) and x.ndim == 4)
            return run(*operands, **options)

        monkeypatch.setattr(fastvae_kernels, op, watch)
    return seen


def is_innermost(op: str, x: Tensor, rows: int) -> bool:
    if op == "conv_transpose2d" and len(x) != rows:
        return x.permute(1, 2, 3, 0).is_contiguous()
    return x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("verb", ["reconstruct", "elbo", "decode", "encode"])
def test_image_ops_read_nothing_else(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, rows = conv_spec(), 7
    _, chosen = plans(spec, verb)
    seen = watched(monkeypatch)
    run_plan(chosen, inputs_of(spec, rows), rows)
    assert seen
    assert all(is_innermost(op, x, rows) for op, x in seen)
    kinds = [step.op for step in chosen.steps]
    assert kinds.count("channels_last") == ("x" in chosen.inputs and verb != "decode"), "only the caller's images"


def test_reshapes_between_dense_layers_and_images_are_views() -> None:
    _, chosen = plans(conv_spec(), "reconstruct")
    reshapes = [step for step in chosen.steps if step.op == "reshape"]
    assert len(reshapes) == 2
    assert all(step.attributes["channels_last"] for step in reshapes)


def test_a_flat_row_that_something_else_reads_as_well_stays() -> None:
    """Flattened features feed a dense layer, and are an output's shape: images as the caller knows them."""
    spec = ModelSpec(
        (2, 4, 4),
        (3,),
        (Conv2d("e", 2, 5, (3, 3), padding=(1, 1)), Flatten(), Activation("tanh"), Linear("f", 80, 8)),
        gaussian_head("q", 8, 3, "separate"),
        (Linear("d", 3, 32), Reshape((2, 4, 4))),
        Bernoulli(),
    )
    _, chosen = plans(spec, "reconstruct")
    flags = [step.attributes.get("channels_last", False) for step in chosen.steps if step.op == "reshape"]
    assert flags[-1] is False, "the output"


def test_only_kernels_are_given_it() -> None:
    model = random_model(conv_spec())
    targets: tuple[Target, ...] = ("reference", "onnx")
    for target in targets:
        plan = build_plan(model, "reconstruct", target=target)
        assert all(step.op != "channels_last" for step in plan.steps)
        assert all(weight.is_contiguous() for weight in plan.weights.values())
    for invariant in (False, True):
        plan = build_plan(model, "reconstruct", target="triton", batch_invariant=invariant)
        assert any(step.op == "channels_last" for step in plan.steps)


def test_images_of_one_channel_are_told_by_their_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their numbers lie where they lay, but what is made of them has its channels innermost."""
    spec = ModelSpec(
        (1, 4, 4),
        (3,),
        (Conv2d("e.0", 1, 5, (3, 3), padding=(1, 1)), Conv2d("e.1", 5, 2, (3, 3)), Flatten(), Linear("f", 8, 8)),
        gaussian_head("q", 8, 3, "separate"),
        (
            Linear("d", 3, 16),
            Reshape((1, 4, 4)),
            Conv2d("d.1", 1, 2, (3, 3), padding=(1, 1)),
            Conv2d("d.2", 2, 1, (1, 1)),
        ),
        Bernoulli(),
    )
    _, chosen = plans(spec, "reconstruct")
    seen = watched(monkeypatch)
    run_plan(chosen, inputs_of(spec, 7), 7)
    images = [x for _, x in seen if len(x) == 7]
    assert len(images) == 4
    assert all(x.stride(1) == 1 for x in images)


@pytest.mark.parametrize("verb", ["elbo", "distance", "decode"])
def test_weights_of_every_convolution_lie_as_kernels_read_them(verb: str) -> None:
    plan = build_plan(random_model(image_spec()), verb, target="triton")
    found = {step.op: plan.weights[str(step.inputs[1])] for step in plan.steps if step.op in ORDERS}
    assert {"conv2d_statistics", "conv_transpose2d"} < set(found)
    assert ("conv_score" in found) == (verb != "decode")
    for op, weight in found.items():
        outermost = weight.transpose(0, 1) if op == "conv_transpose2d" else weight
        assert outermost.is_contiguous(memory_format=torch.channels_last), op
