"""How rows are split."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvae.runtime.batching import ALIGNMENT, even_part, padded


@given(rows=st.integers(1, 10_000), size=st.integers(1, 5_000))
def test_parts_are_as_few_as_can_be_and_of_about_one_size(rows: int, size: int) -> None:
    parts = []
    left = rows
    while left:
        parts.append(even_part(left, size))
        left -= parts[-1]
    assert sum(parts) == rows
    assert max(parts) <= size
    assert len(parts) == -(-rows // size)
    assert max(parts) - min(parts) <= 1


def test_only_a_whole_tile_of_aligned_rows_is_not_copied() -> None:
    memory = torch.arange(40.0).reshape(10, 4)
    whole, shifted = memory[:8], memory[1:9]
    assert padded(whole, 8) is whole
    for rows in (shifted, torch.arange(32.0).reshape(4, 8).T, memory[:3]):
        found = padded(rows, 8)
        assert found.data_ptr() != rows.data_ptr()
        assert found.data_ptr() % ALIGNMENT == 0
        assert found.is_contiguous()
        assert torch.equal(found[: len(rows)], rows)
        assert not found[len(rows) :].any()
