"""Where the compiled kernels put numbers: layouts of images, bytes, columns, and results that share what they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastvae_kernels import to_bytes
from fastvae_kernels.cpu import GIVEN, Image, ProgramCall, StepTable
from tests.kernels.support import PAD, SENTINEL, needs_compiled, of_each_vectors
from tests.kernels.test_row_steps import numbers

pytestmark = needs_compiled

SIDES, PADS = st.integers(1, 40), st.integers(0, 2)
# A layout, and the zeros around it.
PLACES = st.tuples(st.booleans(), st.tuples(PADS, PADS, PADS, PADS))


@given(shape=st.tuples(SIDES, SIDES, SIDES), places=st.lists(PLACES, min_size=1, max_size=4), rows=st.integers(1, 3))
@settings(max_examples=60)
def test_copies_between_layouts_keep_every_bit(
    shape: tuple[int, int, int], places: list[tuple[bool, tuple[int, int, int, int]]], rows: int
) -> None:
    """From each image to the next; all are read again at the end, when a copy beyond another's bounds would show."""
    table = StepTable()
    images = [Image(GIVEN, *shape)]
    for planar, padding in places:
        images.append(table.image(shape, padding, planar=planar))
        table.copy(images[-2], images[-1])
    flats = [table.flat(shape) for _ in places]
    for image, flat in zip(images[1:], flats, strict=True):
        table.copy(image, flat)
    program = table.program([flat.place for flat in flats], [math.prod(shape)] * len(flats))
    call = ProgramCall(program, shape, [shape] * len(flats), [np.dtype(np.float32)] * len(flats), "any", rows)
    x = numbers(rows, *shape).numpy()
    for _, found in of_each_vectors(lambda: call(x) or []):
        for values in found:
            np.testing.assert_array_equal(values, x)


# Beyond both ends, ties and beside them, and what is no number.
VALUES = [*((n + 0.5) / 255 for n in range(0, 255, 5)), -1.0, -0.0, 0.0, 1e-9, 0.3, 1.0, 1.5, math.inf, -math.inf]


@given(
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 70)),
    scale=st.sampled_from([(1.0, 0.0), (0.5, 0.5), (-1.0, 1.0), (2.0, -0.25)]),
    nans=st.integers(0, 2),
    twice=st.booleans(),
    seed=st.integers(0, 99),
)
def test_pixels_are_those_of_to_bytes(
    shape: tuple[int, int], scale: tuple[float, float], nans: int, twice: bool, seed: int
) -> None:
    """Bit by bit; also where they are not made in place but copied."""
    channels, entries = shape
    random = torch.Generator().manual_seed(seed)
    x = torch.tensor(VALUES)[torch.randint(len(VALUES), (3, *shape), generator=random)]
    for place in torch.randint(channels * entries, (nans,), generator=random):
        x[1].view(-1)[place] = math.nan
    table = StepTable()
    one = table.pixels(GIVEN, channels, entries, *scale)
    wanted = [*one, *one] if twice else [*one]
    program = table.program(wanted, [channels * entries, 1] * (len(wanted) // 2))
    shapes: list[tuple[int, ...]] = [(entries, channels), ()] * (len(wanted) // 2)
    dtypes = [np.dtype(np.uint8), np.dtype(np.bool_)] * (len(wanted) // 2)
    found = ProgramCall(program, shape, shapes, dtypes, "any", 3)(x.numpy()) or []
    pixels, nan = to_bytes(x[..., None], scale=scale[0], shift=scale[1], impl="reference")
    assert len(found) == len(wanted)
    for values, expected in zip(found, [pixels.reshape(3, entries, channels), nan] * 2, strict=False):
        np.testing.assert_array_equal(values, expected.numpy())


@given(step=st.integers(1, 5), count=st.integers(1, 40), data=st.data())
def test_columns_are_a_slice(step: int, count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, step - 1))
    size = first + (count - 1) * step + 1
    table, x = StepTable(), numbers(4, size).numpy()
    copied = table.clamp(GIVEN, size, -math.inf, math.inf)
    place = table.columns(copied, first, step, count)
    call = ProgramCall(table.program([place], [count]), (size,), [(count,)], [np.dtype(np.float32)], "any", 4)
    for _, (found,) in of_each_vectors(lambda: call(x) or []):
        np.testing.assert_array_equal(found, x[:, first::step])


def guarded_arrays(rows: int, sizes: list[int]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Results of rows between sentinels, and all of that memory."""
    memory = [np.full(rows * size + 2 * PAD, SENTINEL, np.float32) for size in sizes]
    return [own[PAD:-PAD].reshape(rows, size) for own, size in zip(memory, sizes, strict=True)], memory


@given(
    half=st.integers(1, 40),
    wanted=st.lists(st.sampled_from(["whole", "first", "second", "sums", "scaled", "given"]), min_size=1, max_size=5),
    rows=st.integers(1, 30),
    again=st.booleans(),
)
@settings(max_examples=200)
def test_results_are_wanted_whole_in_part_and_twice(half: int, wanted: list[str], rows: int, again: bool) -> None:
    """A layer's result, its halves and what is made of them, in any order; small integers, which no sum rounds."""
    x = (numbers(rows, half) * 3).round().numpy()
    weight = (numbers(2 * half, half, seed=1) * 2).round()
    table = StepTable()
    whole = table.linear(GIVEN, weight, None, "identity", None)
    sums = table.add(whole, whole + half, half)
    scaled = table.affine(whole + half, torch.full((half,), 2.0), torch.ones(half), "relu", None)
    places = {"whole": whole, "first": whole, "second": whole + half, "sums": sums, "scaled": scaled, "given": GIVEN}
    made = x @ weight.numpy().T
    first, second = made[:, :half], made[:, half:]
    exact = {"whole": made, "first": first, "second": second, "sums": first + second, "given": x}
    exact["scaled"] = np.maximum(2 * second + 1, 0)
    sizes = [exact[name].shape[1] for name in wanted]
    program = table.program([places[name] for name in wanted], sizes)
    for _ in range(1 + again):
        found, memory = guarded_arrays(rows, sizes)
        assert program.run([x], found)
        for name, values, own in zip(wanted, found, memory, strict=True):
            np.testing.assert_array_equal(values, exact[name])
            assert (own[:PAD] == SENTINEL).all()
            assert (own[-PAD:] == SENTINEL).all()


@pytest.mark.parametrize("given_rows", [1, 2, 7])
def test_given_rows_come_again_from_any_tile_on(given_rows: int) -> None:
    """More rows than a tile or a thread takes, so that some begin in the middle of what comes again."""
    rows, columns = 450, 80
    x, other = numbers(given_rows, columns).numpy(), numbers(rows, columns, seed=1).numpy()
    table = StepTable()
    square = table.linear(GIVEN - 1, torch.eye(columns), None, "identity", None)
    place = table.add(GIVEN, square, columns)
    program = table.program([place], [columns])
    expected = x[np.arange(rows) % given_rows] + other
    for threads in (1, 2, 3):
        (found,), _ = guarded_arrays(rows, [columns])
        assert program.run([x, other], [found], threads=threads)
        np.testing.assert_array_equal(found, expected)
