"""Plans in sweeps: bands with a halo give the rows of the whole, whatever the kernels, strides and heights."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastvae.errors import UnsupportedError, WeightFormatError
from fastvae.layers import (
    Activation,
    Attention,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    GroupNorm,
    Layer,
    Linear,
    Reshape,
    Residual,
    Stack,
    Upsample,
    stack_shape,
)
from fastvae.plan import Plan, Sweep, build_plan, sweeps
from fastvae.plan.bands import Margin, scales
from fastvae.runtime.tiling import Costs, TiledExecutor, Tiling, references, tile
from fastvae.spec import FixedGaussian, ModelSpec, PointHead
from tests.fastvae.support import random_model, run_plan

CPU = torch.device("cpu")
CHANNELS = 4


def plan_of(*layers: Layer, size: tuple[int, int] = (24, 5)) -> Plan:
    """Of ``embed`` of a model that is these layers, in float64."""
    shape = (CHANNELS, *size)
    latent = stack_shape(layers, shape)
    back = Linear("d", latent[0] * latent[1] * latent[2], CHANNELS * size[0] * size[1])
    decoder = (Flatten(), back, Reshape(shape))
    spec = ModelSpec(shape, latent, layers, PointHead(), decoder, FixedGaussian(), dtype="float64")
    return build_plan(random_model(spec), "embed", dtype=torch.float64)


def in_bands(plan: Plan, rows: int, most_halo: int, virtual: frozenset[str], x: torch.Tensor) -> torch.Tensor:
    tiling = tile(plan, Costs(0, 8, sessions=False), 0, most_halo=most_halo, virtual=virtual, rows=rows)
    return TiledExecutor(plan, tiling, references("reference", CPU, torch.float64))({"x": x})[0]


@st.composite
def convolutions(draw: st.DrawFn, name: str) -> Layer:
    """One that has a form in bands: its padding makes rows a multiple or a fraction of those it gets."""
    kind = draw(st.sampled_from(["same", "strided", "transposed", "upsample"]))
    if kind == "upsample":
        return Upsample(draw(st.integers(2, 3)))
    dilation = draw(st.integers(1, 2))
    if kind == "transposed":
        stride, kernel = draw(st.integers(1, 3)), draw(st.integers(1, 4))
        extent = dilation * (kernel - 1)
        extra = draw(st.integers(0, max(stride, dilation) - 1))
        padding, odd = divmod(extent + extra + 1 - stride, 2)
        assume(padding >= 0 and not odd)
        widths = (stride, 1), (padding, 0), (extra, 0), (dilation, 1)
        return ConvTranspose2d(name, CHANNELS, CHANNELS, (kernel, 1), *widths)
    stride = 1 if kind == "same" else draw(st.integers(2, 3))
    kernel = draw(st.integers(1, 4))
    total = dilation * (kernel - 1) - draw(st.integers(0, stride - 1))
    assume(total >= 0)
    top = draw(st.integers(0, total))
    return Conv2d(
        name, CHANNELS, CHANNELS, (kernel, 3), (stride, 1), (top, 1), (dilation, 1), padding_end=(total - top, 1)
    )


@st.composite
def stacks(draw: st.DrawFn) -> Stack:
    layers: list[Layer] = []
    for index in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["convolution", "convolution", "norm", "residual", "attention"]))
        name = f"e.{index}"
        match kind:
            case "convolution":
                layers.append(draw(convolutions(name)))
            case "norm":
                layers += [GroupNorm(name, CHANNELS, 2), Activation("silu")]
            case "residual":
                body = Conv2d(name, CHANNELS, CHANNELS, (3, 3), padding=(1, 1))
                layers.append(Residual((GroupNorm(f"{name}.n", CHANNELS, 2), body, Activation("relu"))))
            case _:
                layers.append(Attention(name, CHANNELS, heads=2))
    return tuple(layers)


@settings(max_examples=25, deadline=None)
@given(stacks(), st.integers(4, 26), st.integers(1, 9), st.sampled_from([0, 2, 9]), st.data())
def test_bands_give_the_rows_of_the_whole(
    layers: Stack, height: int, rows: int, most_halo: int, data: st.DataObject
) -> None:
    try:
        plan = plan_of(*layers, size=(height, 5))
    except WeightFormatError:  # nothing is left of so few rows
        assume(False)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, CHANNELS, height, 5)))
    expected = run_plan(plan, {"x": x})[0]
    cut = sweeps(plan, most_halo=most_halo)
    wholes = {name for sweep in cut for name in sweep.wholes}
    free = sorted({name for sweep in cut for name in sweep.kept} - wholes - {*plan.outputs})
    virtual = frozenset(data.draw(st.lists(st.sampled_from(free), max_size=2))) if free else frozenset()
    found = in_bands(plan, rows, most_halo, virtual, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11 * max(1.0, float(expected.abs().max())))


def conv(stride: int, padding: int, end: int, kernel: int = 3, dilation: int = 1) -> Layer:
    shape = ((kernel, 3), (stride, 1), (padding, 1), (dilation, 1))
    return Conv2d("e", CHANNELS, CHANNELS, *shape, padding_end=(end, 1))


@pytest.mark.parametrize(
    "layers",
    [
        (conv(1, 1, 1),),
        (conv(2, 1, 1),),
        (conv(2, 0, 1),),
        (conv(1, 0, 4, dilation=2),),
        (conv(1, 4, 0, dilation=2),),
        (conv(3, 2, 1, kernel=5),),
        (ConvTranspose2d("e", CHANNELS, CHANNELS, (4, 4), (2, 2), (1, 1)),),
        (ConvTranspose2d("e", CHANNELS, CHANNELS, (6, 1), (2, 1), (2, 0)),),
        (ConvTranspose2d("e", CHANNELS, CHANNELS, (3, 1), (2, 1), (1, 0), (1, 0)),),
        (Upsample(), Conv2d("e", CHANNELS, CHANNELS, (3, 3), padding=(1, 1))),
        (Upsample(3), conv(1, 1, 1)),
    ],
    ids=str,
)
def test_halos_are_as_wide_as_they_have_to_be_and_no_wider(layers: Stack) -> None:
    """With one row less of either, some band of some height comes out wrong."""
    plan = plan_of(*layers)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, CHANNELS, 24, 5)))
    expected = run_plan(plan, {"x": x})[0]
    for rows in (1, 2, 5):
        torch.testing.assert_close(in_bands(plan, rows, 4, frozenset(), x), expected, rtol=0, atol=1e-12)
    (sweep,) = sweeps(plan, most_halo=4)
    for top, bottom in ((1, 0), (0, 1)):
        halo = Margin(sweep.halo.top - top, sweep.halo.bottom - bottom)
        if min(halo) < 0:
            continue
        less = replace(sweep, halo=halo)
        found = [run_sweep(plan, less, rows, x) for rows in (1, 2, 5)]
        assert any(not torch.allclose(one, expected, rtol=0, atol=1e-9) for one in found)


def run_sweep(plan: Plan, sweep: Sweep, rows: int, x: torch.Tensor) -> torch.Tensor:
    tiling = Tiling((sweep,), (rows,), (0,), 0.0)
    return TiledExecutor(plan, tiling, references("reference", CPU, torch.float64))({"x": x})[0]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Conv2d("e", CHANNELS, CHANNELS, (3, 3)), "conv2d 'w:e.weight', whose padding"),
        (ConvTranspose2d("e", CHANNELS, CHANNELS, (3, 3), (2, 2)), "conv_transpose2d 'w:e.weight', whose padding"),
    ],
)
def test_what_makes_other_numbers_of_rows_is_refused(layer: Layer, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        sweeps(plan_of(layer), most_halo=4)


def test_what_mixes_all_pixels_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="into bands for the op 'reshape'"):
        sweeps(plan_of(Flatten(), Linear("e", 480, 480), Reshape((CHANNELS, 24, 5))), most_halo=4)


def test_a_sweep_ends_before_what_needs_all_of_an_image() -> None:
    """Before the norm, the attention; and where the halo would grow beyond the limit."""
    conv = [Conv2d(f"e.{i}", CHANNELS, CHANNELS, (3, 3), padding=(1, 1)) for i in range(4)]
    plan = plan_of(conv[0], GroupNorm("n", CHANNELS, 2), conv[1], Attention("a", CHANNELS), conv[2], conv[3])
    ops = [[step.op for step in sweep.plan.steps] for sweep in sweeps(plan, most_halo=4)]
    assert [step[0] for step in ops] == ["conv2d", "normalise", "attention"]
    assert ops[2] == ["attention", "conv2d", "conv2d"]
    halos = [sweep.halo for sweep in sweeps(plan, most_halo=1)]
    assert max(max(halo) for halo in halos) == 1
    assert len(halos) == 4


def test_scales_are_those_of_the_shapes() -> None:
    plan = plan_of(Conv2d("e", CHANNELS, CHANNELS, (3, 3), (2, 2), (0, 1), padding_end=(1, 1)), Upsample(3))
    found = scales(plan)
    assert [found[name] for name in plan.outputs] == [Fraction(3, 2)]
    assert plan.shapes[plan.outputs[0]][1] == 24 * Fraction(3, 2)
