"""Residual layers: what they compute, what the passes may and may not do around them, and in which files they come."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvae.errors import WeightFormatError, WeightMismatchError
from fastvae.layers import (
    MAX_RESIDUAL_DEPTH,
    Activation,
    Affine,
    BatchNorm,
    Flatten,
    Layer,
    Linear,
    Residual,
    Stack,
    leaves,
)
from fastvae.model import check_memory, check_model
from fastvae.plan import build as build_module
from fastvae.plan import build_plan, plan_cost
from fastvae.plan.passes import PASSES, align_linear, cast, fold_affine, fuse_activation, fuse_residual
from fastvae.plan.plan import Plan, Step
from fastvae.spec import FixedGaussian, GaussianHead, ModelSpec
from fastvae.spec_json import spec_from_json, spec_to_json
from tests.fastvae.plan.test_plan import expected_stack
from tests.fastvae.support import SPECS, inputs_of, random_model, run_plan, vae


def spec_of(encoder: Stack, features: int = 5) -> ModelSpec:
    """A model with ``encoder``, which keeps rows of ``features``."""
    return ModelSpec(
        input_shape=(features,),
        latent_shape=(features,),
        encoder=encoder,
        posterior=GaussianHead("separate", scale=(Linear("scale_", features, features),)),
        decoder=(),
        likelihood=FixedGaussian(),
    )


@st.composite
def stacks(draw: st.DrawFn, width: int, depth: int = 2, least: int = 0) -> Stack:
    """Random layers that keep ``width`` features, with residuals at most ``depth`` deep."""
    kinds = ["linear", "bare", "norm", "affine", "tanh", "relu", *(["residual"] * 3 if depth else [])]
    layers: list[Layer] = []
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=least, max_size=4)):
        name = f"l{next(draw(st.shared(st.builds(count), key='names')))}"
        match kind:
            case "residual":
                body = draw(stacks(width, depth - 1, 1))
                layers.append(Residual(body, draw(st.just(()) | stacks(width, depth - 1))))
            case "linear" | "bare":
                layers.append(Linear(name, width, width, bias=kind == "linear"))
            case "norm":
                layers.append(BatchNorm(name, width))
            case "affine":
                layers.append(Affine(name, (width,)))
            case _:
                layers.append(Activation("tanh" if kind == "tanh" else "relu"))
    return tuple(layers)


def unfused(spec: ModelSpec, verb: str, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of ``verb`` without what ``fuse_residual`` does, in float64."""
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "PASSES", tuple(improve for improve in PASSES if improve is not fuse_residual))
        return build_plan(random_model(spec), verb, dtype=torch.float64)


@given(encoder=stacks(5, least=1))
@settings(deadline=None, max_examples=60)
def test_random_residuals_compute_what_they_say_in_fewer_bytes(encoder: Stack) -> None:
    """Weights reach tens in depth 2 of 4 layers, hence the tolerance relative to the largest value."""
    spec = replace(spec_of(encoder), dtype="float64")
    model = random_model(spec)
    with pytest.MonkeyPatch.context() as monkeypatch:
        plan = unfused(spec, "encode", monkeypatch)
    expected = expected_stack(encoder, inputs_of(model.spec)["x"], dict(model.weights))
    fused = fuse_residual(plan)
    tolerance = 1e-12 * (1 + float(expected.abs().max()))
    for candidate in (plan, fused, align_linear(fused)):
        mean = run_plan(cast(candidate, dtype=torch.float64, device="cpu"), inputs_of(model.spec))[0]
        torch.testing.assert_close(mean, expected, rtol=1e-12, atol=tolerance)
    before, after = plan_cost(plan), plan_cost(fused)
    removed = len(plan.steps) - len(fused.steps)
    assert removed == sum("residual" in step.keywords for step in fused.steps)
    # Each sum that is gone wrote a row of 5 and read two; the linear now reads one of them: two less to move.
    assert before.bytes - after.bytes == removed * 2 * 5 * 4
    assert after.flops <= before.flops


def ops(plan: Plan) -> list[str]:
    return [step.op for step in plan.steps]


def test_a_sum_goes_into_the_linear_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of((Residual((Linear("a", 5, 7), Activation("relu"), Linear("b", 7, 5))),))
    assert ops(unfused(spec, "embed", monkeypatch)) == ["linear", "linear", "add"]
    plan = build_plan(random_model(spec), "embed")
    assert ops(plan) == ["linear", "linear"]
    assert plan.steps[1].inputs == (plan.steps[0].outputs[0], "w:b.weight", "w:b.bias")
    assert plan.steps[1].keywords == {"residual": "x"}


def test_of_two_linear_operands_the_later_takes_the_sum() -> None:
    spec = spec_of((Residual((Linear("body", 5, 5),), (Linear("shortcut", 5, 5),)),))
    plan = build_plan(random_model(spec), "embed")
    assert ops(plan) == ["linear", "linear"]
    assert plan.steps[1].inputs[1:] == ("w:shortcut.weight", "w:shortcut.bias")
    assert plan.steps[1].keywords == {"residual": plan.steps[0].outputs[0]}


def test_a_linear_waits_for_the_operand_it_adds() -> None:
    spec = spec_of((Residual((Linear("body", 5, 5),), (Affine("a", (5,)), Activation("tanh"))),))
    plan = build_plan(random_model(spec), "embed")
    assert ops(plan) == ["affine", "linear"], "the shortcut comes first, though it is listed last"


def test_nothing_is_folded_or_fused_over_a_residual() -> None:
    """act(W x + b) + r is scaled or activated after the sum: the linear must not take that in."""
    layers = (Residual((Linear("body", 5, 5),)), BatchNorm("norm", 5), Activation("relu"))
    model = random_model(spec_of(layers))
    plan = build_plan(model, "embed")
    assert ops(plan) == ["linear", "affine"]
    assert plan.steps[0].attributes == {}
    assert ops(fuse_activation(fold_affine(plan))) == ["linear", "affine"]
    activated = build_plan(random_model(spec_of((layers[0], layers[2]))), "embed")
    assert ops(fuse_activation(activated)) == ["linear", "affine"]


@pytest.mark.parametrize(
    "steps",
    [
        (Step("linear", ("x", "w", None), ("h",)), Step("add", ("h", "h"), ("y",))),
        (Step("linear", ("x", "w", None), ("h",)), Step("add", ("h", "x"), ("y",)), Step("add", ("y", "h"), ("v",))),
        (Step("linear", ("x", "w", None, "x"), ("h",)), Step("add", ("h", "x"), ("y",))),
        (Step("conv2d", ("x", "w", None), ("h",)), Step("add", ("h", "x"), ("y",))),
    ],
    ids=["with itself", "read twice", "adds already", "no linear"],
)
def test_sums_that_stay(steps: tuple[Step, ...]) -> None:
    names = {name for step in steps for name in step.outputs} | {"x"}
    plan = Plan("embed", ("x",), steps[-1].outputs, steps, {"w": torch.eye(5)}, dict.fromkeys(names, (5,)))
    assert fuse_residual(plan) == plan


def test_outputs_of_the_plan_stay() -> None:
    steps = (Step("linear", ("x", "w", None), ("h",)), Step("add", ("h", "x"), ("y",)))
    plan = Plan("v", ("x",), ("h", "y"), steps, {"w": torch.eye(5)}, dict.fromkeys("xhy", (5,)))
    assert fuse_residual(plan) == plan


def test_row_bits_do_not_depend_on_the_batch() -> None:
    """Widths of 3, 5 and 6 are padded, and the residual with them."""
    spec = SPECS["mlp_residual"]
    x = np.random.default_rng(0).random((130, 6), dtype=np.float32)
    model = vae(spec, batch_invariant=True)
    whole = model.reconstruct(x)
    for i in (0, 7, 129):
        np.testing.assert_array_equal(model.reconstruct(x[i : i + 1])[0], whole[i])
    np.testing.assert_allclose(whole, vae(spec).reconstruct(x), rtol=1e-4, atol=1e-5)


def nested(depth: int) -> Stack:
    stack: Stack = (Activation("tanh"),)
    for _ in range(depth):
        stack = (Residual(stack),)
    return stack


def test_nesting_is_capped() -> None:
    spec_of(nested(MAX_RESIDUAL_DEPTH))
    with pytest.raises(WeightFormatError, match=f"nested {MAX_RESIDUAL_DEPTH + 1} deep, at most {MAX_RESIDUAL_DEPTH}"):
        nested(MAX_RESIDUAL_DEPTH + 1)


@pytest.mark.parametrize("depth", [17, 100, 300, 5_000, 100_000])
@pytest.mark.parametrize("field", ["body", "shortcut"])
def test_a_hostile_nesting_is_an_error(depth: int, field: str) -> None:
    leaf = '{"kind": "activation", "function": "tanh"}'
    body = '"body": [' if field == "body" else f'"body": [{leaf}], "shortcut": ['
    text = spec_to_json(spec_of((Flatten(),)))
    deep = f'{{"kind": "residual", {body}' * depth + leaf + "]}" * depth
    with pytest.raises(WeightFormatError, match=r"model\.json"):
        spec_from_json(text.replace('{"kind": "flatten"}', deep), source="model.json")


def test_fields_of_a_residual_are_checked() -> None:
    text = spec_to_json(SPECS["mlp_residual"])
    document = json.loads(text)
    document["encoder"][2]["body"][0]["in_features"] = "wide"
    with pytest.raises(WeightFormatError, match=r"encoder\[2\].body\[0\].in_features: expected int"):
        spec_from_json(json.dumps(document))
    document["encoder"][2] = {"kind": "residual"}
    with pytest.raises(WeightFormatError, match=r"encoder\[2\]: missing field 'body'"):
        spec_from_json(json.dumps(document))


def test_residuals_that_cannot_be() -> None:
    with pytest.raises(WeightFormatError, match="at least one layer"):
        Residual(())
    with pytest.raises(WeightFormatError, match=r"body makes shape \(4,\) but shortcut \(5,\)"):
        spec_of((Residual((Linear("a", 5, 4),)), Linear("b", 4, 5)))
    with pytest.raises(WeightFormatError, match=r"'a\.weight' is used as"):
        spec_of((Residual((Linear("a", 5, 4), Linear("a", 4, 5))),))


def test_leaves_are_the_layers_inside() -> None:
    names = [layer.name for layer in leaves(SPECS["mlp_residual"].decoder) if isinstance(layer, Linear)]
    assert names == ["d.0", "d.1", "d.2", "d.3", "d.6"]


def test_batch_norms_inside_are_checked() -> None:
    model = random_model(SPECS["mlp_residual"])
    assert check_model(model, source="m").spec == model.spec
    broken = {**model.weights, "e.2.running_var": torch.full((8,), -1.0)}
    with pytest.raises(WeightMismatchError, match="variances that are not positive"):
        check_model(replace(model, weights=broken), source="m")


def test_what_a_residual_holds_counts_as_memory() -> None:
    """Inside the block a row's 100 inputs wait beside 1,000 features."""
    wide = (Linear("a", 100, 1000), Linear("b", 1000, 100))
    spec = spec_of((Residual(wide),), features=100)
    needed = 4 * (sum(int(np.prod(shape)) for shape in spec.tensors().values()) + 2 * 1100)
    check_memory(spec, source="m", max_memory=needed)
    with pytest.raises(WeightMismatchError, match=f"asks for {needed:,} bytes"):
        check_memory(spec, source="m", max_memory=needed - 1)
