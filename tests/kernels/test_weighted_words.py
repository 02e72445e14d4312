"""Sums of weighted words of rows, as exact integers have them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvae_kernels.cpu import add_weighted_words
from tests.kernels.support import needs_compiled

pytestmark = needs_compiled


def mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def expected(row: bytes, place: int) -> int:
    row += bytes(-len(row) % 4)
    words = (int.from_bytes(row[at : at + 4], "little") for at in range(0, len(row), 4))
    return sum((mix(2**63 + j) | 1) * word for j, word in enumerate(words, place)) % 2**64


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 5),
    width=st.integers(1, 70) | st.integers(2040, 2060) | st.integers(4090, 4110),
    place=st.integers(0, 2**33),
    offset=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_the_words_of_rows_come_to(rows: int, width: int, place: int, offset: int, seed: int) -> None:
    """Also where rows are cut, are no whole words, and begin anywhere in memory."""
    generator = np.random.default_rng(seed)
    memory = generator.integers(0, 256, offset + rows * width, dtype=np.uint8)
    given_rows = memory[offset:].reshape(rows, width)
    before = generator.integers(0, 2**64, rows, dtype=np.uint64)
    sums = before.copy()
    add_weighted_words(sums, given_rows, place)
    found = [
        (int(total) + expected(row.tobytes(), place)) % 2**64 for total, row in zip(before, given_rows, strict=True)
    ]
    assert sums.tolist() == found


def test_the_largest_words() -> None:
    """Halves of products carry into one another."""
    rows = np.full((2, 9000), 255, np.uint8)
    sums = np.full(2, 2**64 - 1, np.uint64)
    add_weighted_words(sums, rows, 2**62)
    assert sums.tolist() == [(2**64 - 1 + expected(rows[0].tobytes(), 2**62)) % 2**64] * 2
