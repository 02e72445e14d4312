"""Steps on rows in one call: against float64, row by row the same bits, and what it refuses."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

import fastvae_kernels
from fastvae_kernels import ACTIVATIONS
from fastvae_kernels.cpu import GIVEN, ProgramCall, StepTable, Values
from fastvae_kernels.reference.activation import activate_
from fastvae_kernels.testing import slope
from tests.kernels.support import needs_compiled, of_each_vectors, product_roundings, vectors

pytestmark = needs_compiled

U = 2.0**-24
SMALLEST = torch.finfo(torch.float32).smallest_normal


def numbers(*shape: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    return fastvae_kernels.sample_normal(1, math.prod(shape), seed=seed).reshape(shape) * spread


def call(
    table: StepTable,
    columns: int,
    outputs: list[int],
    shape: tuple[int, ...] = (),
    *,
    values: Values = "any",
    most: int = 5,
) -> ProgramCall:
    """Rows of so many columns, to results of one shape."""
    size, count = math.prod(shape), len(outputs)
    program = table.program(outputs, [size] * count)
    return ProgramCall(program, (columns,), [shape] * count, [np.dtype(np.float32)] * count, values, most)


def activation_error(activation: str, before: Tensor, after: Tensor) -> Tensor:
    """What an activation rounds, given exact values before and after it.

    Ten operations or fewer, each of at most 2 u, of numbers no larger than the result; and the argument of an
    exponential or an erfc, rounded a few times, moves those of x by |x| or x² times as much as itself. In the lower
    tail of gelu_tanh it is PyTorch's float64 that cancels.
    """
    steep = {"gelu": before**2, "gelu_tanh": before.abs() * (1 + before**2)}.get(activation, before.abs())
    return 16 * U * after.abs() * (1 + steep) + 4 * SMALLEST + 2.0**-52 * before.abs()


@given(
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 150),
    rows=st.integers(1, 40),
    activation=st.sampled_from(ACTIVATIONS),
    alpha=st.none() | st.floats(-2, 2, width=32),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=120, deadline=None)
def test_a_layer_is_the_reference_in_float64(
    inputs: int, outputs: int, rows: int, activation: str, alpha: float | None, bias: bool, seed: int
) -> None:
    alpha = alpha if activation in ("leaky_relu", "elu") else None
    x, w = numbers(rows, inputs, seed=seed), numbers(outputs, inputs, seed=seed + 1, spread=2 / math.sqrt(inputs))
    b = numbers(outputs, seed=seed + 2) if bias else None
    steps = StepTable()
    layer = call(steps, inputs, [steps.linear(GIVEN, w, b, activation, alpha)], (outputs,), most=rows)
    shift = torch.zeros(outputs).double() if b is None else b.double()
    before = x.double() @ w.double().T + shift
    exact = activate_(before.clone(), activation, alpha)
    sizes = x.double().abs() @ w.double().abs().T + shift.abs()
    for kind, (found,) in of_each_vectors(lambda: layer(x.numpy()) or []):
        sums = product_roundings(kind, inputs) * U * sizes
        budget = slope(activation, alpha) * sums + activation_error(activation, before, exact)
        error = (torch.from_numpy(found).double() - exact).abs()
        assert (error <= budget).all(), (error / budget).max()
        with vectors(kind):
            for row in range(rows):
                (alone,) = layer(x[row : row + 1].numpy()) or []
                np.testing.assert_array_equal(alone[0], found[row])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_tails_of_activations(activation: str) -> None:
    """Where exponentials over- and underflow; infinities and NaN are as PyTorch has them."""
    edges = [0.0, 1e-30, 1e-6, 0.5, 5.0, 9.99, 10.0, 20.0, 80.0, 87.0, 88.8, 104.0, 1e4, 3e38, math.inf]
    x = torch.tensor([*edges, *(-e for e in edges), math.nan])
    for step in ("linear", "affine"):
        steps, one = StepTable(), torch.ones(1)
        place = (
            steps.linear(GIVEN, one[:, None], None, activation, None)
            if step == "linear"
            else steps.affine(GIVEN, one, one * 0, activation, None)
        )
        (found,) = call(steps, 1, [place], (1,), most=len(x))(x[:, None].numpy()) or []
        exact = activate_(x.double(), activation, None)
        value, y = exact.float(), torch.from_numpy(found[:, 0])
        odd = ~value.isfinite()
        torch.testing.assert_close(y[odd], value[odd], rtol=0, atol=0, equal_nan=True)
        budget = activation_error(activation, x.double().clamp(-200, 200), exact)
        assert ((y.double() - exact).abs()[~odd] <= budget[~odd]).all()


def scored(likelihood: str, columns: int, constant: Tensor) -> ProgramCall:
    """A score of the first third of a row under parameters that the others hold."""
    steps = StepTable()
    eye = torch.eye(3 * columns)
    data, output, logvar = (steps.linear(GIVEN, part, None, "identity", None) for part in eye.split(columns))
    if likelihood == "of entries":
        place = steps.score("gaussian", output, data, columns, logvar=logvar)
    elif likelihood == "of columns":
        place = steps.score("gaussian", output, data, columns, constant=constant)
    else:
        place = steps.score(likelihood, output, data, columns)
    return call(steps, 3 * columns, [place])


@pytest.mark.parametrize("columns", [1, 6, 64, 700])
@pytest.mark.parametrize("likelihood", ["bernoulli", "squared_error", "of entries", "of columns"])
def test_scores(likelihood: str, columns: int) -> None:
    x = numbers(3, 3 * columns, seed=columns)
    x[:, :columns].sigmoid_()
    data, output, logvar = x.double().split(columns, 1)
    constant = logvar[0]
    expected = {
        "bernoulli": lambda: fastvae_kernels.bernoulli_nll(output, data, impl="reference"),
        "squared_error": lambda: fastvae_kernels.squared_error(output, data, impl="reference"),
        "of entries": lambda: fastvae_kernels.gaussian_nll(output, logvar, data, impl="reference"),
        "of columns": lambda: fastvae_kernels.gaussian_nll(output, constant, data, impl="reference"),
    }[likelihood]()
    (nll,) = scored(likelihood, columns, constant)(x.numpy()) or []
    # A term is at most (|x| + |mean|)² exp(-logvar) with a dozen roundings; sums of eight are the only ones in float32.
    size = ((data.abs() + output.abs()) ** 2 * logvar.abs().exp().clamp_min(1)).sum(1) + 3 * columns
    if likelihood == "of columns":
        size = ((data.abs() + output.abs()) ** 2 * constant.abs().exp()).sum(1) + 3 * columns
    assert ((torch.from_numpy(nll).double() - expected).abs() <= 32 * U * size).all()


def test_sums_bounds_and_divergences() -> None:
    columns = 21
    x = numbers(4, 2 * columns, seed=3, spread=2.0)
    mean, logvar = x.double().split(columns, 1)
    steps, eye = StepTable(), torch.eye(2 * columns)
    halves = [steps.linear(GIVEN, part, None, "identity", None) for part in eye.split(columns)]
    added, clamped = steps.add(*halves, columns), steps.clamp(halves[1], columns, -0.5, 0.75)
    scaled = steps.affine(halves[0], logvar[0].float(), mean[1].float(), "relu", None)
    found = call(steps, 2 * columns, [added, clamped, scaled], (columns,))(x.numpy()) or []
    expected = (x[:, :columns] + x[:, columns:], x[:, columns:].clamp(-0.5, 0.75))
    for values, exact in zip(found, expected, strict=False):
        np.testing.assert_array_equal(values, exact.numpy())
    np.testing.assert_array_equal(found[2], (x[:, :columns] * x[0, columns:] + x[1, :columns]).relu().numpy())
    other = StepTable()
    halves = [other.linear(GIVEN, part, None, "identity", None) for part in eye.split(columns)]
    (kl,) = call(other, 2 * columns, [other.divergence(*halves, columns)])(x.numpy()) or []
    exact = (0.5 * (mean**2 + logvar.expm1() - logvar)).sum(1)
    size = (mean**2 + logvar.exp() + logvar.abs() + 1).sum(1)
    assert ((torch.from_numpy(kl).double() - exact).abs() <= 16 * U * size).all()


def identity(columns: int, values: Values = "any") -> ProgramCall:
    steps = StepTable()
    place = steps.linear(GIVEN, torch.eye(columns), None, "identity", None)
    return call(steps, columns, [place], (columns,), values=values)


@pytest.mark.parametrize("columns", [1, 5, 64, 67])
def test_refuses_what_values_are_not(columns: int) -> None:
    x = np.linspace(0, 1, 3 * columns, dtype=np.float32).reshape(3, columns)
    finite, unit = identity(columns, "finite"), identity(columns, "unit interval")
    for inside in (x, x * 0, x * 0 + 1):
        np.testing.assert_array_equal((unit(inside) or [None])[0], inside)
    for place in np.ndindex(3, columns):
        for bad in (math.nan, math.inf, -math.inf, -math.nan):
            worse = x.copy()
            worse[place] = bad
            assert finite(worse) is None
            assert unit(worse) is None
            assert identity(columns)(worse) is not None
        for outside in (np.nextafter(np.float32(1), np.float32(2)), -1e-45, -0.5, np.finfo(np.float32).max):
            worse = x.copy()
            worse[place] = outside
            np.testing.assert_array_equal((finite(worse) or [None])[0], worse)
            assert unit(worse) is None


def test_nan_and_infinity_stay_in_their_rows() -> None:
    """A layer makes NaN of NaN, in all outputs of that row; its padding does not reach others."""
    x = numbers(4, 7)
    x[1, 3], x[2, 6] = math.nan, math.inf
    w = numbers(19, 7, seed=1)
    steps = StepTable()
    (found,) = call(steps, 7, [steps.linear(GIVEN, w, None, "relu", None)], (19,))(x.numpy()) or []
    expected = (x @ w.T).relu().numpy()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_array_equal(np.isposinf(found), np.isposinf(expected))


def network() -> tuple[ProgramCall, NDArray[np.float32]]:
    steps, place, width = StepTable(), GIVEN, 33
    for seed, outputs in enumerate((65, 17, 40)):
        place = steps.linear(place, numbers(outputs, width, seed=seed, spread=width**-0.5), None, "silu", None)
        width = outputs
    return call(steps, 33, [place], (40,), most=9), numbers(9, 33, seed=9).numpy()


def test_any_strides_and_read_only_rows() -> None:
    run, x = network()
    (expected,) = run(x) or []
    frozen = x.copy()
    frozen.flags.writeable = False
    wide = np.repeat(x, 2, 1)[:, ::2]
    for other in (frozen, wide, np.asfortranarray(x), x[::-1][::-1]):
        np.testing.assert_array_equal((run(other) or [None])[0], expected)
    backwards = run(x[::-1]) or []
    np.testing.assert_array_equal(backwards[0], expected[::-1])
    assert run(x[:0]) is not None


def test_results_are_the_callers() -> None:
    run, x = network()
    first = (run(x) or [])[0]
    kept = first.copy()
    run(-x)
    np.testing.assert_array_equal(first, kept)


def test_threads_have_the_bits_of_one() -> None:
    run, x = network()
    expected = [(run(x[row : row + 3]) or [])[0] for row in range(7)]

    def some(index: int) -> bool:
        row = index % 7
        return np.array_equal((run(x[row : row + 3]) or [])[0], expected[row])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(some, range(2000)))


@given(columns=st.integers(1, 600), latents=st.integers(1, 20), rows=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_scores_of_several_arrays(columns: int, latents: int, rows: int, seed: int) -> None:
    """What a session made and what it was given, of rows of different lengths."""
    logits, x = numbers(rows, columns, seed=seed, spread=3.0), numbers(rows, columns, seed=seed + 1).abs().clamp(max=1)
    mean, logvar = numbers(rows, latents, seed=seed + 2), numbers(rows, latents, seed=seed + 3)
    steps = StepTable()
    places = [
        steps.score("bernoulli", GIVEN - 1, GIVEN, columns),
        steps.divergence(GIVEN - 2, GIVEN - 3, latents),
    ]
    made = [np.full(rows, np.nan, np.float32) for _ in places]
    parts = [part.numpy() for part in (x, logits, mean, logvar)]
    score = steps.program(places, [1, 1]).call(parts, made, "unit interval")
    assert score()
    wide = logits.double()
    terms = torch.nn.functional.softplus(wide) - x.double() * wide
    divergence = 0.5 * (mean.double() ** 2 + logvar.double().expm1() - logvar.double())
    for found, exact, size in (
        (made[0], terms, wide.abs() + 1),
        (made[1], divergence, mean.double() ** 2 + logvar.double().abs() + logvar.double().exp()),
    ):
        # A dozen roundings of numbers no larger than `size`, and the sum's own.
        error = (torch.from_numpy(found).double() - exact.sum(1)).abs()
        assert (error <= 16 * U * size.sum(1)).all()
    x[rows - 1, columns - 1] = 1.5
    before = [array.copy() for array in made]
    assert not score()
    np.testing.assert_array_equal(made, before)


@pytest.mark.parametrize("samples", [2, 3])
def test_data_of_fewer_rows_comes_again(samples: int) -> None:
    rows, columns = 3, 5
    x, other = numbers(rows, columns), numbers(samples * rows, columns, seed=1)
    steps = StepTable()
    product = steps.linear(GIVEN, numbers(columns, columns, seed=2), None, "identity", None)
    places = [steps.score("squared_error", GIVEN - 1, place, columns) for place in (GIVEN, product)]
    program = steps.program(places, [1, 1])
    found, expected = ([np.full(samples * rows, np.nan, np.float32) for _ in places] for _ in range(2))
    assert program.call([x.numpy(), other.numpy()], found, "finite")()
    assert program.run([x.repeat(samples, 1).numpy(), other.numpy()], expected)
    np.testing.assert_array_equal(found, expected)
