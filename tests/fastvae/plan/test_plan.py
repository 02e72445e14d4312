"""Plans compute what the spec says, in float64 against PyTorch's own modules, and cost what they say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastvae.errors import UnsupportedError
from fastvae.layers import (
    Activation,
    Affine,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    Residual,
    Stack,
)
from fastvae.model import Model
from fastvae.plan import VERBS, build_plan, plan_cost
from fastvae.spec import Bernoulli, GaussianHead
from tests.fastvae.support import SPECS, inputs_of, mlp_spec, random_model, run_plan


def expected_layer(layer: Layer, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """One layer by torch.nn.functional, independently of fastvae's ops."""
    match layer:
        case Linear():
            return F.linear(x, w[f"{layer.name}.weight"], w.get(f"{layer.name}.bias"))
        case Conv2d():
            args = layer.stride, layer.padding, layer.dilation, layer.groups
            return F.conv2d(x, w[f"{layer.name}.weight"], w.get(f"{layer.name}.bias"), *args)
        case ConvTranspose2d():
            args_t = layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
            return F.conv_transpose2d(x, w[f"{layer.name}.weight"], w.get(f"{layer.name}.bias"), *args_t)
        case BatchNorm():
            names = ("running_mean", "running_var", "weight", "bias")
            statistics = [w.get(f"{layer.name}.{name}") for name in names]
            return F.batch_norm(x, *statistics, eps=layer.eps)  # type: ignore[arg-type]
        case Affine():
            shape = layer.shape if len(layer.shape) == x.ndim - 1 else (*layer.shape, *[1] * (x.ndim - 2))
            return x * w[f"{layer.name}.scale"].reshape(shape) + w[f"{layer.name}.shift"].reshape(shape)
        case Activation():
            negative_slope = {} if layer.alpha is None else {"negative_slope": layer.alpha}
            return getattr(F, layer.function)(x, **negative_slope)  # type: ignore[no-any-return]
        case Flatten():
            return x.flatten(1)
        case Residual():
            return expected_stack(layer.body, x, w) + expected_stack(layer.shortcut, x, w)
        case _:
            return x.reshape(len(x), *layer.shape)


def expected_stack(stack: Stack, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    for layer in stack:
        x = expected_layer(layer, x, w)
    return x


def expected_head(head: GaussianHead, h: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    if head.layout == "separate":
        mean, raw = expected_stack(head.mean, h, w), expected_stack(head.scale, h, w)
    else:
        joint = expected_stack(head.joint, h, w)
        if head.layout == "interleaved":
            mean, raw = joint.view(len(joint), -1, 2).unbind(-1)
        else:
            mean, raw = joint.chunk(2, dim=1)
    logvar = {
        "logvar": lambda: raw,
        "softplus_std": lambda: 2 * torch.log(F.softplus(raw, threshold=1e9) + head.eps),
        "variance": lambda: torch.log(raw + head.eps),
    }[head.parametrization]()
    bounded = head.logvar_min is not None or head.logvar_max is not None
    return mean, logvar.clamp(head.logvar_min, head.logvar_max) if bounded else logvar


def joined(x: Tensor, condition: Tensor | None) -> Tensor:
    if condition is None:
        return x
    if x.ndim > 2:
        condition = condition[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, condition], 1)


@pytest.mark.parametrize("name", SPECS)
def test_encode_and_decode_equal_torch(name: str) -> None:
    model = random_model(SPECS[name])
    spec, w = model.spec, {name: tensor.double() for name, tensor in model.weights.items()}
    given = inputs_of(model.spec)
    condition = given.get("condition")
    use_x = spec.condition is not None and spec.condition.encoder
    h = expected_stack(spec.encoder, joined(given["x"], condition if use_x else None), w)
    mean, logvar = run_plan(build_plan(model, "encode", dtype=torch.float64), given)
    for found, expected in zip((mean, logvar), expected_head(spec.posterior, h, w), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    use_z = spec.condition is not None and spec.condition.decoder
    features = expected_stack(spec.decoder, joined(given["z"], condition if use_z else None), w)
    match spec.likelihood:
        case Bernoulli():
            expected = torch.sigmoid(features)
        case likelihood if hasattr(likelihood, "head"):
            expected = expected_head(likelihood.head, features, w)[0]
        case _:
            expected = features
    (output,) = run_plan(build_plan(model, "decode", dtype=torch.float64), given)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


def test_passes_leave_nothing_to_do_in_a_batch_normalised_network() -> None:
    ops = [step.op for step in build_plan(random_model(SPECS["conv"]), "reconstruct").steps]
    assert "affine" not in ops


def test_a_shared_buffer_is_not_fused_away() -> None:
    plan = build_plan(random_model(mlp_spec(Bernoulli())), "impute")
    assert [step.op for step in plan.steps].count("affine") == 1, "the logits feed the likelihood and the sigmoid"


def test_prune_drops_the_variance_head_of_embed() -> None:
    plan = build_plan(random_model(mlp_spec()), "embed")
    assert not [name for name in plan.weights if name.startswith("w:q.scale_")]


def test_batch_norm_folding_keeps_extreme_statistics() -> None:
    model = random_model(mlp_spec())
    extreme = {"e.1.running_var": torch.tensor([1e-12, 1e12, 0.0] + [1.0] * 5)}
    model = Model(model.spec, {**model.weights, **extreme})
    mean, logvar = run_plan(build_plan(model, "encode", dtype=torch.float64), inputs_of(model.spec))
    w = {name: tensor.double() for name, tensor in model.weights.items()}
    h = expected_stack(model.spec.encoder, inputs_of(model.spec)["x"], w)
    for found, expected in zip((mean, logvar), expected_head(model.spec.posterior, h, w), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_batch_norms_of_one_name_may_differ() -> None:
    norms = BatchNorm("e.1", 8), Activation("tanh"), BatchNorm("e.1", 8, eps=1.0)
    spec = mlp_spec()
    model = random_model(replace(spec, encoder=(spec.encoder[0], *norms)))
    w = {name: tensor.double() for name, tensor in model.weights.items()}
    expected = expected_head(spec.posterior, expected_stack(model.spec.encoder, inputs_of(model.spec)["x"], w), w)
    found = run_plan(build_plan(model, "encode", dtype=torch.float64), inputs_of(model.spec))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_unknown_verb() -> None:
    with pytest.raises(UnsupportedError, match="expected one of encode"):
        build_plan(random_model(mlp_spec()), "dream")


def test_cost_of_an_mlp_by_hand() -> None:
    model = random_model(replace(mlp_spec(features=6, latent_dim=3), encoder=(Linear("e.0", 6, 8),)))
    cost = plan_cost(build_plan(model, "encode"))
    assert cost.flops == 2 * (6 * 8 + 8 * 3 + 8 * 3)
    assert cost.bytes == 4 * ((6 + 8) + (8 + 3 + 3)), "the merged head reads its input once"
    assert cost.peak_bytes == 4 * (6 + 8 + 3 + 3), "the input is the caller's, and stays"
    assert cost.weight_bytes == 4 * ((6 * 8 + 8) + 2 * (8 * 3 + 3))


def test_cost_of_convolutions_by_hand() -> None:
    plan = build_plan(random_model(SPECS["conv"]), "decode")
    linear = 2 * 4 * 64
    transposed = 2 * (4 * 4 * 4) * (6 * 4 * 4)
    pointwise = 2 * (2 * 8 * 8) * 6
    assert plan_cost(plan).flops == linear + transposed + pointwise


def test_plans_name_each_buffer_once() -> None:
    for name, spec in SPECS.items():
        for verb in VERBS:
            plan = build_plan(random_model(spec), verb)
            outputs = [output for step in plan.steps for output in step.outputs]
            assert len(outputs) == len(set(outputs)), (name, verb)
            assert set(plan.shapes) == set(outputs) | set(plan.inputs)
            assert math.prod(plan.shapes[plan.outputs[0]]) > 0
