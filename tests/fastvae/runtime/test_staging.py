"""Rows of host memory through a device with copies under way: the plain way's results, without new memory."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from fastvae.runtime.staging import DEPTH, Stages
from tests.fastvae.runtime.fakes import FakeGraphs, FakeLanes, on_fake, plain_vae
from tests.fastvae.support import SPECS, condition_for, data_for


class Made(list[FakeLanes]):
    """Makes lanes beside some graphs, and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs = FakeGraphs()

    def __call__(self) -> FakeLanes:
        self.append(FakeLanes(self.graphs))
        return self[-1]


def staged(name: str, lanes: Made, graphs: bool = False, **settings: object) -> Any:
    return on_fake(SPECS[name], lanes.graphs if graphs else None, lanes, **settings)


@pytest.mark.parametrize("kind", ["numpy", "torch", "float64", "float16", "flat", "reversed"])
@pytest.mark.parametrize("precision", ["ieee", "float64", "bf16"])
def test_results_are_those_of_the_plain_way(kind: str, precision: str) -> None:
    spec = SPECS["conv_conditional"]
    x: Any = data_for(spec, 23).astype({"float64": np.float64, "float16": np.float16}.get(kind, np.float32))
    x = {"torch": torch.from_numpy(x), "flat": x.reshape(23, -1), "reversed": x[::-1]}.get(kind, x)
    c, lanes = condition_for(spec, 23), Made()
    model = staged("conv_conditional", lanes, batch_size=4, precision=precision)
    plain = plain_vae(spec, batch_size=4, precision=precision)
    q, expected = model.encode(x, condition=c), plain.encode(x, condition=c)
    assert type(q.mean) is type(x)
    np.testing.assert_array_equal(q.mean, expected.mean)
    np.testing.assert_array_equal(q.logvar, expected.logvar)
    np.testing.assert_array_equal(model.reconstruct(x, condition=c), plain.reconstruct(x, condition=c))
    for samples in (None, 2):
        np.testing.assert_array_equal(
            model.score(x, "elbo", samples=samples, condition=c), plain.score(x, "elbo", samples=samples, condition=c)
        )
    assert len(lanes) == 1
    assert lanes[0].under_way == 0
    assert lanes[0].most_under_way >= DEPTH


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("precision", ["ieee", "bf16"])
def test_pixels_come_as_bytes(graphs: bool, precision: str) -> None:
    """In blocks that overlap, and from graphs, whose marks of a NaN are read once at the end."""
    spec, lanes = SPECS["conv"], Made()
    model = staged("conv", lanes, graphs, batch_size=4, precision=precision)
    plain = plain_vae(spec, batch_size=4, precision=precision)
    x = data_for(spec, 23).astype(np.float32)
    np.testing.assert_array_equal(model.reconstruct(x, output="uint8"), plain.reconstruct(x, output="uint8"))
    pixels = model.generate(23, seed=2, output="uint8")
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, plain.generate(23, seed=2, output="uint8"))


def test_samples_come_back_while_more_are_made() -> None:
    lanes, c = Made(), condition_for(SPECS["conv_conditional"], 23)
    model, plain = staged("conv_conditional", lanes, batch_size=4), plain_vae(SPECS["conv_conditional"], batch_size=4)
    for output in ("mean", "sample"):
        expected = plain.generate(23, seed=2, start=9, output=output, condition=c)
        np.testing.assert_array_equal(model.generate(23, seed=2, start=9, output=output, condition=c), expected)
        batches = list(model.stream(23, batch_size=9, seed=2, start=9, output=output, condition=c))
        np.testing.assert_allclose(np.concatenate(batches), expected, rtol=1e-5, atol=1e-6)
    assert lanes[0].most_under_way == DEPTH
    assert lanes[0].under_way == 0
    assert isinstance(model.generate(23, condition=c, kind="torch"), torch.Tensor)
    assert len(lanes) == 1


def test_no_memory_is_allocated_once_every_slot_was_used() -> None:
    lanes = Made()
    model = staged("mlp_fixed", lanes, graphs=True, batch_size=8)
    x = data_for(SPECS["mlp_fixed"], 8 * DEPTH)
    model.encode(x)
    before = lanes[0].allocations
    assert before == DEPTH * (2 + 2)  # a block there and on the device; a mean and a log-variance back
    for rows in (9, 100, 8 * DEPTH):
        model.encode(data_for(SPECS["mlp_fixed"], rows))
        model.score(data_for(SPECS["mlp_fixed"], rows))
    assert lanes[0].allocations == before


def test_rows_that_are_one_block_go_the_plain_way() -> None:
    lanes = Made()
    model = staged("mlp_fixed", lanes, batch_size=8)
    for rows in (0, 1, 8):
        model.embed(data_for(SPECS["mlp_fixed"], rows))
    assert lanes == []
    assert not Stages(None).overlaps(100, 1)


def test_masked_rows_come_back_nan() -> None:
    lanes = Made()
    x = data_for(SPECS["mlp_fixed"], 20)
    x[3, 1] = x[17, 0] = np.nan
    model, plain = staged("mlp_fixed", lanes, batch_size=4), plain_vae(SPECS["mlp_fixed"], batch_size=4)
    found, expected = model.embed(x, invalid="mask"), plain.embed(x, invalid="mask")
    np.testing.assert_array_equal(np.isnan(found).any(1).nonzero()[0], [3, 17])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(lanes) == 1


def test_an_error_leaves_nothing_under_way() -> None:
    lanes = Made()
    model = staged("mlp_fixed", lanes, batch_size=4, batch_invariant=True)
    x = data_for(SPECS["mlp_fixed"], 20)
    expected = plain_vae(SPECS["mlp_fixed"], batch_invariant=True).embed(x)
    rows, calls = model._walker.rows("x", x), 0

    def compute(block: Any, *_: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyError("no such thing")
        return (model._engine.embed(block),)

    with pytest.raises(KeyError, match="no such thing"):
        model._walker.walk(rows, compute, ["embed"], [(3,)])
    assert lanes[0].under_way == 0
    np.testing.assert_array_equal(model.embed(x), expected)
    assert len(lanes) == 1


def test_every_thread_has_slots_of_its_own() -> None:
    lanes = Made()
    model = staged("mlp_fixed", lanes, graphs=True, batch_size=4, batch_invariant=True)
    x = data_for(SPECS["mlp_fixed"], 50)
    expected, wrong = model.score(x), list[Any]()

    def work() -> None:
        try:
            wrong.extend(k for k in range(10) if not np.array_equal(model.score(x), expected))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 1 <= len(lanes) <= 8
    assert all(lane.under_way == 0 for lane in lanes)
