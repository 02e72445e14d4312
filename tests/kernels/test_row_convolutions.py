"""Convolutions of the compiled kernels: against float64, over all layouts, kinds of vectors, tiles and threads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, pad

from fastvae_kernels import ACTIVATIONS
from fastvae_kernels.cpu import (
    GIVEN,
    Image,
    ProgramCall,
    StepTable,
    Windows,
    convolution,
    padding_for,
    transposed,
)
from fastvae_kernels.reference.activation import activate_
from fastvae_kernels.testing import slope
from tests.kernels.support import needs_compiled, of_each_vectors, product_roundings
from tests.kernels.test_row_steps import U, activation_error, numbers

pytestmark = needs_compiled

CHANNELS, SIZES, KERNELS, STRIDES = st.integers(1, 20), st.integers(1, 20), st.integers(1, 4), st.integers(1, 3)
PADS, ROWS = st.integers(0, 2), st.integers(1, 3)


def convolved(
    shape: Sequence[int],
    result: tuple[int, ...],
    windows: Sequence[Windows],
    bias: Tensor | None,
    activation: str = "identity",
    *,
    planar: bool = False,
    planar_result: bool = False,
    more: int = 0,
    most: int = 3,
    threads: int = 1,
) -> ProgramCall:
    """A convolution of images [channels, height, width], with `more` zeros around than it needs."""
    channels, height, width = shape
    table = StepTable()
    top, left, bottom, right = padding_for(windows, (height, width))
    source = table.image(shape, (top + more, left, bottom, right + more), planar=planar or planar_result)
    table.copy(Image(GIVEN, channels, height, width), source)
    flat = table.flat(result)
    target = flat if planar_result else table.image(result, (more, 1, 0, more))
    table.convolve(source, target, windows, bias, activation, None)
    if not planar_result:
        table.copy(target, flat)
    program = table.program([flat.place], [math.prod(result)])
    return ProgramCall(program, (channels, height, width), [result], [np.dtype(np.float32)], "any", most, threads)


def assert_within_roundings(
    call: ProgramCall, x: Tensor, before: Tensor, sizes: Tensor, terms: int, activation: str
) -> None:
    """Given exact sums, and those of the sizes of their terms."""
    exact = activate_(before.clone(), activation, None)
    for kind, (found,) in of_each_vectors(lambda: call(x.numpy()) or []):
        sums = product_roundings(kind, terms) * U * sizes
        budget = slope(activation, None) * sums + activation_error(activation, before, exact)
        error = (torch.from_numpy(found).double() - exact).abs()
        assert (error <= budget).all(), (error / budget).max()


@given(
    channels=CHANNELS,
    outputs=CHANNELS,
    size=st.tuples(SIZES, SIZES),
    kernel=st.tuples(KERNELS, KERNELS),
    stride=st.tuples(STRIDES, STRIDES),
    padding=st.tuples(PADS, PADS, PADS, PADS),
    activation=st.sampled_from(ACTIVATIONS),
    biased=st.booleans(),
    layouts=st.tuples(st.booleans(), st.booleans()),
    rows=ROWS,
    more=PADS,
)
@settings(max_examples=250)
def test_a_convolution_is_the_reference_in_float64(
    channels: int,
    outputs: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    activation: str,
    biased: bool,
    layouts: tuple[bool, bool],
    rows: int,
    more: int,
) -> None:
    planar, planar_result = layouts
    top, left, bottom, right = padding
    taps = min(kernel[0], size[0] + top + bottom), min(kernel[1], size[1] + left + right)
    if planar_result:
        outputs, stride = -(-outputs // 5), (1, 1)
    x = numbers(rows, channels, *size)
    weight = numbers(outputs, channels, *taps, seed=1, spread=2 / math.sqrt(channels * math.prod(taps)))
    bias = numbers(outputs, seed=2) if biased else None

    def exact(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shift = None if bias is None else bias.double()
        return conv2d(pad(x.double(), (left, right, top, bottom)), weight.double(), shift, stride)

    before = exact(x, weight, bias)
    sizes = exact(x.abs(), weight.abs(), None if bias is None else bias.abs())
    windows = convolution(weight.numpy(), stride, padding, size)
    result = tuple(before.shape[1:])
    options = {"planar": planar, "planar_result": planar_result}
    call = convolved((channels, *size), result, windows, bias, activation, more=more, **options)
    assert_within_roundings(call, x, before, sizes, channels * math.prod(taps), activation)


@given(
    channels=CHANNELS,
    outputs=CHANNELS,
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(KERNELS, KERNELS),
    stride=st.tuples(STRIDES, STRIDES),
    padding=st.tuples(PADS, PADS),
    behind=st.tuples(PADS, PADS),
    activation=st.sampled_from(ACTIVATIONS),
    biased=st.booleans(),
    layouts=st.tuples(st.booleans(), st.booleans()),
    rows=ROWS,
    more=PADS,
)
@settings(max_examples=250)
def test_a_transposed_convolution_is_the_reference_in_float64(
    channels: int,
    outputs: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    behind: tuple[int, int],
    activation: str,
    biased: bool,
    layouts: tuple[bool, bool],
    rows: int,
    more: int,
) -> None:
    # As much less as leaves a result of at least one entry.
    pads = [min(p, ((n - 1) * s + k - 1) // 2) for p, n, s, k in zip(padding, size, stride, kernel, strict=True)]
    wider = [min(most, s - 1) for most, s in zip(behind, stride, strict=True)]
    planar, planar_result = layouts
    if planar_result:
        outputs = -(-outputs // 5)
    x = numbers(rows, channels, *size)
    weight = numbers(channels, outputs, *kernel, seed=1, spread=2 / math.sqrt(channels * math.prod(kernel)))
    bias = numbers(outputs, seed=2) if biased else None

    def exact(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shift = None if bias is None else bias.double()
        return conv_transpose2d(x.double(), weight.double(), shift, stride, pads, wider)

    before = exact(x, weight, bias)
    sizes = exact(x.abs(), weight.abs(), None if bias is None else bias.abs())
    result = tuple(before.shape[1:])
    windows = transposed(weight.numpy(), stride, pads, (result[1], result[2]))
    if not windows:
        assert any(k < s for k, s in zip(kernel, stride, strict=True))
        return
    options = {"planar": planar, "planar_result": planar_result}
    call = convolved((channels, *size), result, windows, bias, activation, more=more, **options)
    assert_within_roundings(call, x, before, sizes, channels * math.prod(kernel), activation)


@pytest.mark.parametrize(
    ("kernel", "stride", "entries", "found"), [(1, 2, 2, 0), (1, 2, 1, 1), (2, 3, 9, 0), (2, 2, 4, 2)]
)
def test_entries_without_weights_have_no_windows(kernel: int, stride: int, entries: int, found: int) -> None:
    weight = np.ones((1, 1, 1, kernel), np.float32)
    assert len(transposed(weight, (1, stride), (0, 0), (1, entries))) == found


@pytest.mark.parametrize("planar_result", [False, True])
def test_tiles_and_threads_have_the_bits_of_a_row(planar_result: bool) -> None:
    """More rows than a tile has; windows in more than one block, whose last is not full."""
    rows, shape, result = 200, (8, 9, 19), (4, 9, 19)
    x, weight = numbers(rows, *shape).numpy(), numbers(4, 8, 3, 3, seed=1)
    windows = convolution(weight.numpy(), (1, 1), (1, 1, 1, 1), (9, 19))
    options = {"planar_result": planar_result, "most": rows}
    one = convolved(shape, result, windows, numbers(4, seed=2), "silu", **options)
    expected = np.concatenate([(one(row[None]) or [])[0] for row in x])
    for threads in (1, 2, 3):
        call = convolved(shape, result, windows, numbers(4, seed=2), "silu", threads=threads, **options)
        for count in (rows, 13):
            np.testing.assert_array_equal((call(x[:count]) or [])[0], expected[:count])
