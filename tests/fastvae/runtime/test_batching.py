"""How rows are split."""

from hypothesis import given
from hypothesis import strategies as st

from fastvae.runtime.batching import even_part


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
