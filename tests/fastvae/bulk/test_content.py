"""The checksum of rows: what its page says, compiled or not, however rows are cut into blocks and columns."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fastvae.bulk import content
from fastvae.bulk.content import added, content_of
from fastvae.bulk.table import Block, Rows


def block(rows: Rows, start: int = 0) -> Block:
    return Block(start, {"sample": rows})


@pytest.fixture(params=[content.COMPILED, False])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "COMPILED", request.param)


@pytest.mark.usefixtures("compiled")
def test_the_checksum_is_what_its_page_says() -> None:
    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    rows = np.random.default_rng(0).integers(0, 256, (3, 7), dtype=np.uint8)
    total = 0
    for index, row in enumerate(rows, 5):
        data = row.tobytes() + b"\0"
        words = [int.from_bytes(data[i : i + 4], "little") for i in (0, 4)]
        sums = sum((mix(2**63 + j) | 1) * word for j, word in enumerate(words))
        total += mix(mix(index) + sums)
    whole = content_of(block(rows, 5))
    assert whole == total % 2**64
    assert added(content_of(block(rows[:1], 5)), content_of(block(rows[1:], 6))) == whole
    assert content_of(block(rows[:0], 5)) == 0
    padded = np.pad(rows, ((0, 0), (0, 1)))
    assert content_of(Block(5, {"a": padded[:, :4], "b": padded[:, 4:]})) == whole
    for other in (rows[::-1], rows ^ np.uint8(128), np.roll(rows, 1, 1)):
        assert content_of(block(np.ascontiguousarray(other), 5)) != whole
    assert content_of(block(rows, 6)) != whole


@pytest.mark.skipif(not content.COMPILED, reason="no compiled kernels, or words of another order")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), rows=st.integers(1, 4), start=st.integers(0, 2**40))
def test_compiled_and_in_numpy_it_is_the_same(
    data: st.DataObject, rows: int, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of columns of any kinds, one after the other."""
    shapes = st.lists(st.integers(1, 5), max_size=3)
    columns: dict[str, Rows] = {"text": np.array(["", "a", "é", "b" * 99][:rows], dtype=object)}
    for name, dtype in {"bytes": "u1", "half": "f2", "numbers": "f4", "id": "i8", "image": "u1"}.items():
        columns[name] = data.draw(arrays(dtype, (rows, *data.draw(shapes))))
    columns["image"] = np.repeat(columns["image"], 2, 0)[::2]  # with gaps in memory
    found = {}
    for compiled in (True, False):
        monkeypatch.setattr(content, "COMPILED", compiled)
        found[compiled] = content_of(Block(start, columns))
    assert found[True] == found[False]
