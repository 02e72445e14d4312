"""Convolutions after group norms in 8 bits: which, with what scales, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fastvae.layers import Activation, Attention, Conv2d, GroupNorm, Layer
from fastvae.plan import Plan, Step, Target, build_plan
from fastvae.plan.memory import row_bytes
from fastvae.plan.passes.use_fp8 import eight_bit_weight, norms_before_convolutions, out_scale, use_fp8
from fastvae.runtime.weights import WeightStore
from tests.fastvae.image_specs import wide_image_spec
from tests.fastvae.support import inputs_of, random_model, run_plan

SPEC = wide_image_spec(16)
CONV = Conv2d("c", 16, 16, (3, 3), padding=(1, 1))


def decoder(*layers: Layer, target: Target = "reference") -> Plan:
    """A plan of these layers between two convolutions: to 16 channels, and to an image of 3."""
    first, last = SPEC.decoder[0], Conv2d("last", 16, 3, (1, 1))
    shape = (3, 8, 8)
    spec = replace(SPEC, input_shape=shape, encoder=(Conv2d("e", 3, 16, (1, 1)),), decoder=(first, *layers, last))
    return build_plan(random_model(spec), "decode", target=target, dtype=torch.bfloat16)


NORM, SILU = GroupNorm("n", 16, 4), Activation("silu")


@pytest.mark.parametrize(
    ("layers", "fits"),
    [
        ((NORM, SILU, CONV), True),
        ((NORM, CONV), True),
        ((NORM, Activation("tanh"), CONV), False),
        ((NORM, SILU, replace(CONV, kernel_size=(1, 1), padding=(0, 0))), False),
        ((NORM, SILU, replace(CONV, groups=2)), False),
        ((NORM, SILU, Conv2d("c", 16, 8, (3, 3), padding=(1, 1)), Conv2d("d", 8, 16, (1, 1))), False),
        ((NORM, Attention("a", 16)), False),
        ((CONV, SILU), False),
    ],
    ids=["silu", "identity", "grows", "one tap", "groups", "few outputs", "attention", "no norm"],
)
@pytest.mark.parametrize("target", ["reference", "triton"])
def test_norms_that_convolutions_of_many_channels_read(layers: tuple[Layer, ...], fits: bool, target: Target) -> None:
    assert bool(norms_before_convolutions(decoder(*layers, target=target))) == fits


def test_what_is_handed_back_stays() -> None:
    plan = decoder(NORM, SILU, CONV)
    (norm,) = norms_before_convolutions(plan)
    assert not norms_before_convolutions(replace(plan, outputs=(*plan.outputs, norm)))


def test_channels_that_kernels_do_not_read_at_once_stay() -> None:
    plan = build_plan(random_model(wide_image_spec(24)), "decode")
    assert not norms_before_convolutions(plan)


@pytest.mark.parametrize("size", [2, 17, 4097])
def test_nothing_that_a_norm_gives_is_out_of_reach(size: int) -> None:
    """The furthest that one number in a group can be; the result is at most 448, and not below a quarter of that."""
    x = torch.zeros(1, 1, 1, size, dtype=torch.float64)
    x[..., 0] = 1.0
    plan = Plan("decode", ("x",), ("y",), (), {"w": torch.tensor([-3.0]), "b": torch.tensor([0.5])}, {})
    scale = out_scale(plan, Step("group_norm", ("x", "w", "b"), ("y",)))
    y = torch.nn.functional.group_norm(x, 1, plan.weights["w"].double(), plan.weights["b"].double(), eps=0.0)
    assert float(y.abs().max()) / scale <= 448
    assert 224 < (256 * 3 + 0.5) / scale <= 448
    assert torch.frexp(torch.tensor(scale))[0] == 0.5, "a power of two"


def test_norms_of_zeros_have_a_scale() -> None:
    plan = Plan("decode", ("x",), ("y",), (), {"w": torch.zeros(2)}, {})
    assert out_scale(plan, Step("group_norm", ("x", "w", None), ("y",))) == 1.0
    assert out_scale(plan, Step("group_norm", ("x", None, None), ("y",))) == 1.0


def test_weights_have_a_scale_for_each_output() -> None:
    weight = torch.randn(5, 16, 3, 3) * torch.tensor([1.0, 1e-3, 1e3, 0.0, 1.0])[:, None, None, None]
    q, scale = eight_bit_weight(weight.contiguous(memory_format=torch.channels_last), 0.5)
    assert q.is_contiguous(memory_format=torch.channels_last)
    found = q.float() * (scale / 0.5)[:, None, None, None]
    assert (q.float().abs().amax((1, 2, 3)) == torch.tensor([448.0, 448, 448, 0, 448])).all()
    # Half a unit of four significant bits; below the smallest normal number, of that.
    assert ((found - weight).abs() <= weight.abs() / 16 * 1.0001 + (scale / 0.5)[:, None, None, None] * 2**-10).all()


@pytest.mark.parametrize("target", ["reference", "triton"])
def test_only_what_is_named_changes(target: Target) -> None:
    plan = build_plan(random_model(SPEC), "decode", target=target, dtype=torch.bfloat16)
    norms = norms_before_convolutions(plan)
    assert len(norms) == 4
    changed = use_fp8(plan, norms[:1])
    assert use_fp8(plan, ()).steps == plan.steps
    eight = [step for step in changed.steps if "scale" in step.keywords]
    assert [step.inputs[0] for step in eight] == [norms[0]]
    assert changed.weights[str(eight[0].inputs[1])].dtype == torch.float8_e4m3fn
    assert set(changed.weights) == {name for step in changed.steps for name in step.reads} - set(changed.shapes)
    inputs = {name: x.to(torch.bfloat16) for name, x in inputs_of(SPEC).items()}
    (expected,), (found,) = run_plan(plan, inputs), run_plan(use_fp8(plan, norms), inputs)
    assert found.dtype == expected.dtype
    assert 1e-4 < float((found - expected).float().norm() / expected.float().norm()) < 0.1


def test_what_a_norm_wrote_takes_a_byte() -> None:
    plan = build_plan(random_model(SPEC), "decode", target="triton", dtype=torch.bfloat16)
    norms = norms_before_convolutions(plan)
    sizes, smaller = row_bytes(plan, 2), row_bytes(use_fp8(plan, norms), 2)
    assert {name for name in sizes if smaller[name] != sizes[name]} == {*norms}
    assert all(2 * smaller[name] == sizes[name] for name in norms)


def test_equal_weights_are_held_once() -> None:
    """And none in 16 bits that convolutions have in 8."""
    store = WeightStore()
    plans = [
        build_plan(random_model(SPEC), verb, target="triton", dtype=torch.bfloat16) for verb in ("decode", "score")
    ]
    made = [store.shared(use_fp8(plan, norms_before_convolutions(plan))) for plan in plans]
    addresses = [{x.data_ptr() for x in plan.weights.values() if x.dtype == torch.float8_e4m3fn} for plan in made]
    assert len(addresses[0]) == 4
    assert addresses[0] == addresses[1]
    taps = (weight for weight in store.kept if weight.ndim == 4)
    kinds = [weight.dtype for weight in taps if sorted(weight.shape) == [3, 3, 16, 16]]
    assert kinds == [torch.float8_e4m3fn] * 4
    for plan, before in zip(made, plans, strict=True):
        eight = [step for step in plan.steps if "scale" in step.keywords]
        assert all(plan.weights[str(s.inputs[1])].is_contiguous(memory_format=torch.channels_last) for s in eight)
        assert all(
            torch.equal(plan.weights[name], before.weights[name]) for name in before.weights if name in plan.weights
        )
