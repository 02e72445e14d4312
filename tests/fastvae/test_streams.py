"""``encode_stream``: batches in, posteriors out, read ahead and never more of them in memory than that."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fastvae
from fastvae.errors import InputError
from fastvae.spec import Condition
from fastvae.streams import ahead
from tests.fastvae.support import condition_for, data_for, mlp_spec, vae

SPEC = mlp_spec()


class Batches:
    """Ten batches that count how many were read, and know when they are closed."""

    def __init__(self, fail_at: int = -1) -> None:
        self.read, self.closed, self.fail_at = 0, False, fail_at

    def __iter__(self) -> Iterator[Any]:
        try:
            for i in range(10):
                if i == self.fail_at:
                    raise KeyError("a caller's own")
                self.read += 1
                yield [f"row {i}"], data_for(SPEC, i % 3, seed=i)
        finally:
            self.closed = True


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_encode_stream_is_encode(depth: int) -> None:
    model = vae(SPEC)
    found = list(model.encode_stream(Batches(), ahead=depth))
    assert [ids for ids, _ in found] == [[f"row {i}"] for i in range(10)]
    for i, (_, posterior) in enumerate(found):
        expected = model.encode(data_for(SPEC, i % 3, seed=i))
        np.testing.assert_array_equal(posterior.mean, expected.mean)
        np.testing.assert_array_equal(posterior.logvar, expected.logvar)


def test_conditions_and_policies() -> None:
    spec = mlp_spec(condition=Condition(3))
    model, x, condition = vae(spec), data_for(spec, 4), condition_for(spec, 4)
    ((_, posterior),) = model.encode_stream([(None, x, condition)])
    np.testing.assert_array_equal(posterior.mean, model.encode(x, condition=condition).mean)
    bad = data_for(SPEC, 2)
    bad[1, 0] = np.nan
    ((_, posterior),) = vae(SPEC).encode_stream([(0, bad)], invalid="mask")
    assert np.isnan(posterior.mean).all(1).tolist() == [False, True]


def test_it_reads_no_further_ahead_than_told() -> None:
    batches = Batches()
    stream = vae(SPEC).encode_stream(batches, ahead=2)
    assert batches.read == 0
    next(stream)
    time.sleep(0.05)
    assert 1 < batches.read <= 4  # one is used, two wait, one is held by the thread
    stream.close()
    assert batches.closed
    assert not [thread for thread in threading.enumerate() if thread.name == "fastvae-ahead"]


@pytest.mark.parametrize("depth", [0, 2])
def test_errors_come_in_their_turn(depth: int) -> None:
    batches = Batches(fail_at=4)
    done = []
    with pytest.raises(KeyError, match="a caller's own"):
        done.extend(ids for ids, _ in vae(SPEC).encode_stream(batches, ahead=depth))
    assert batches.closed
    done = [ids for ids, _ in zip(range(4), vae(SPEC).encode_stream(Batches(fail_at=4), ahead=depth), strict=False)]
    assert len(done) == 4


def test_an_iterator_that_outlives_its_reader_is_closed_without_waiting() -> None:
    items = ahead(iter(range(100)), 1)
    assert next(items) == 0
    items.close()
    assert list(ahead([], 3)) == []


def test_mistakes() -> None:
    model = vae(SPEC)
    with pytest.raises(InputError, match="ahead: "):
        model.encode_stream([], ahead=-1)
    with pytest.raises(InputError, match="batches: expected an iterator"):
        model.encode_stream(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"expected tuples \(ids, x\) or .*, got array"):
        next(model.encode_stream([data_for(SPEC, 2)]))  # type: ignore[list-item]
    with pytest.raises(InputError, match="x: "):
        next(model.encode_stream([(0, np.zeros((2, 5)))]))


def test_fingerprint() -> None:
    model = vae(SPEC)
    assert model.fingerprint == vae(replace(SPEC, name="another"), device="cpu", batch_invariant=True).fingerprint
    assert model.fingerprint != vae(SPEC, seed=1).fingerprint
    assert model.fingerprint != vae(replace(SPEC, pixel_range=(-1.0, 1.0))).fingerprint
    assert len(fastvae.load("digits").fingerprint) == 64
