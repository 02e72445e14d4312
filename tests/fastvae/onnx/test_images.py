"""Ops of image autoencoders in ONNX Runtime, on images of other sizes than the plan's, against the reference."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvae.layers import Attention, Conv2d, GroupNorm, Layer, Stack, Upsample, stack_shape
from fastvae.onnx import images, to_onnx, winograd
from fastvae.plan import Plan, build_plan
from fastvae.runtime.executor import Executor
from fastvae.runtime.sizes import resized
from fastvae.spec import FixedGaussian, ModelSpec, PointHead
from tests.fastvae.support import random_model

MANY, PHASED = winograd.CHANNELS, images.PHASE_CHANNELS
# The smallest image of which enough pixels are left for Winograd's way.
SIDE = 32


def plans(channels: int, *layers: Layer) -> tuple[Plan, Plan]:
    """The plan of ``embed`` of a model whose encoder is ``layers``, for ONNX and in float64."""
    shape = (channels, SIDE, SIDE)
    latent = stack_shape(layers, shape)
    larger = (Upsample(SIDE // latent[1]),) if latent[1] < SIDE else ()
    back = Conv2d("d", latent[0], channels, (3, 3), (max(1, latent[1] // SIDE),) * 2, (1, 1))
    spec = ModelSpec(shape, latent, layers, PointHead(), (*larger, back), FixedGaussian(), dtype="float64")
    model = random_model(spec)
    return build_plan(model, "embed", target="onnx"), build_plan(model, "embed", dtype=torch.float64)


def session(plan: Plan, *, runtime: bool = False) -> tuple[onnxruntime.InferenceSession, Counter[str]]:
    made = to_onnx(plan, any_size=True, runtime=runtime)
    onnx.checker.check_model(made, full_check=not runtime)
    ops = Counter(node.op_type for node in made.graph.node)
    return onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"]), ops


def assert_agree(run: onnxruntime.InferenceSession, exact: Plan, x: np.ndarray, units: float) -> None:
    """Within ``units`` roundings to float32 of the largest value."""
    given = torch.from_numpy(x)
    plan = resized(exact, {"x": tuple(x.shape[1:])}, torch.float64)
    executor = Executor(plan, impl="reference", device=torch.device("cpu"), dtype=torch.float64)
    expected = executor({"x": given})[0].numpy()
    (found,) = run.run(None, {"x": x.astype(np.float32)})
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=units * 2.0**-24 * max(1.0, np.abs(expected).max()))


CASES: dict[str, tuple[int, Stack]] = {
    "winograd": (MANY, (Conv2d("e", MANY, MANY, (3, 3), padding=(1, 1)),)),
    "winograd without a bias": (MANY, (Conv2d("e", MANY, MANY + 1, (3, 3), padding=(1, 1), bias=False),)),
    "one-sided": (3, (Conv2d("e", 3, 5, (3, 3), (2, 2), padding_end=(1, 1)),)),
    "upsampled, many channels": (PHASED, (Upsample(), Conv2d("e", PHASED, 3, (3, 3), padding=(1, 1)))),
    "upsampled, few channels": (3, (Upsample(), Conv2d("e", 3, 5, (3, 3), padding=(1, 1), bias=False))),
    "upsampled by three": (3, (Upsample(3),)),
    "group norm": (6, (GroupNorm("e", 6, 3, eps=1e-3),)),
    "one group": (5, (GroupNorm("e", 5, 1),)),
    "attention": (6, (Attention("e", 6),)),
    "heads": (6, (Attention("e", 6, 3, bias=False),)),
}
USED = {
    "winograd": {"MatMul": 16},
    "winograd without a bias": {"MatMul": 16},
    "one-sided": {"Conv": 1},
    "upsampled, many channels": {"Conv": 1, "DepthToSpace": 1},
    "upsampled, few channels": {"ConvTranspose": 1},
    "upsampled by three": {"Resize": 1},
    "attention": {"Conv": 3},
    "heads": {"Conv": 4},
}


@pytest.mark.parametrize("name", CASES)
def test_every_size_equals_the_reference(name: str) -> None:
    """Roundings of sums over at most 9 * 256 terms, which Winograd's mixing makes four times as large at most."""
    channels, layers = CASES[name]
    plan, exact = plans(channels, *layers)
    run, ops = session(plan)
    assert USED.get(name, {}).items() <= ops.items()
    runs = [run, session(plan, runtime=True)[0]]

    @settings(max_examples=12, deadline=None)
    @given(rows=st.integers(1, 2), height=st.integers(2, 9), width=st.integers(2, 9), seed=st.integers(0, 9))
    def agree(rows: int, height: int, width: int, seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal((rows, channels, height, width))
        for run in runs:
            assert_agree(run, exact, x, units=4 * (9 * MANY) ** 0.5)

    agree()


def test_few_channels_or_pixels_are_convolved_plainly() -> None:
    plan, _ = plans(MANY - 1, Conv2d("e", MANY - 1, MANY, (3, 3), padding=(1, 1)))
    assert session(plan)[1]["Conv"] == 1
    plan, _ = plans(MANY, Conv2d("e", MANY, MANY, (3, 3), padding=(1, 1)))
    small = resized(plan, {"x": (MANY, SIDE, SIDE - 1)}, torch.float32)
    assert not winograd.pays(small, small.steps[0])


def test_attention_of_large_logits_is_finite() -> None:
    plan, exact = plans(4, Attention("e", 4))
    x = 100 * np.random.default_rng(0).standard_normal((1, 4, 5, 5))
    assert_agree(session(plan)[0], exact, x, units=1e5)


def test_attention_of_many_pixels_holds_no_matrix_of_their_pairs() -> None:
    plan, exact = plans(8, Attention("e", 8))
    run, ops = session(plan, runtime=True)
    assert ops["MultiHeadAttention"] == 1
    assert not ops["Softmax"]
    assert_agree(run, exact, np.random.default_rng(0).standard_normal((1, 8, 50, 60)), units=300)


def test_group_norm_of_a_large_mean() -> None:
    """A mean of a thousand deviations, of which float32 keeps 2**-24 of 1e3: 6e-5 of a deviation an entry."""
    plan, exact = plans(4, GroupNorm("e", 4, 2))
    x = 1000 + np.random.default_rng(0).standard_normal((2, 4, 8, 8))
    assert_agree(session(plan)[0], exact, x, units=4e3)


@pytest.mark.parametrize("side", [511, 1024])
def test_group_norm_of_many_pixels_adds_them_up_by_rows(side: int) -> None:
    """Below the limit and above; above, errors grow as the root of a row's and a column's length, not of all pixels'.

    Two sums one after the other, of a mean and of squares: 2 * 2 * sqrt(1024) = 128 units, and a few to normalise.
    """
    plan, exact = plans(1, GroupNorm("e", 1, 1))
    assert (side**2 > images.LONGEST_SUM) == (side == 1024)
    x = 3 + np.random.default_rng(0).standard_normal((1, 1, side, side))
    assert_agree(session(plan)[0], exact, x, units=132)
