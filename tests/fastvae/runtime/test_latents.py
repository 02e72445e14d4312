"""Kept blocks of noise give what a draw gives."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastvae.runtime.latents import BLOCK, LAST, MOST_DIM, prior
from fastvae_kernels import sample_normal


@given(
    rows=st.integers(0, 2 * BLOCK),
    dim=st.sampled_from([1, 5, MOST_DIM, MOST_DIM + 1]),
    seed=st.integers(0, 2**64 - 1),
    start=st.one_of(st.integers(0, 3 * BLOCK), st.integers(LAST - 3 * BLOCK, LAST)),
)
def test_any_rows_of_any_stream(rows: int, dim: int, seed: int, start: int) -> None:
    expected = sample_normal(rows, dim, seed=seed, start=start)
    for _ in range(2):
        assert np.array_equal(prior(rows, dim, seed=seed, start=start), expected.numpy())
