"""Compiled plans in threads, processes and memory: what is short, shared, closed, forked, copied or kept."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from fastvae.errors import ClosedError, OutOfMemoryError
from fastvae.runtime.compiled import CompiledExecutor
from fastvae.runtime.side_by_side import serial_threads
from fastvae_kernels.cpu import RowProgram, has_wide_products
from tests.fastvae.runtime.test_compiled import call_of, on
from tests.fastvae.support import SPECS, data_for, vae

pytestmark = pytest.mark.skipif(not has_wide_products(), reason="no wide products on this CPU")

ROWS = 200


def test_short_of_memory_it_takes_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = on("mnist", threads=1)
    x = data_for(model.spec, ROWS).astype(np.float32)
    expected = on("mnist").embed(x)
    call_of(model, "embed")
    original, most = RowProgram.run, 64

    def short(self: RowProgram, given: Any, made: Any, *rest: Any, **how: Any) -> bool:
        if len(made[0]) > most:
            raise MemoryError
        return original(self, given, made, *rest, **how)

    monkeypatch.setattr(RowProgram, "run", short)
    np.testing.assert_array_equal(model.embed(x), expected)
    assert model._engine.batches.rows("embed") <= most
    most = 0
    with pytest.raises(OutOfMemoryError, match="not even one row"):
        model.embed(x)


def test_in_a_thread_of_those_that_take_batches() -> None:
    """One call inside another's batch: it has the thread alone, and the same bits."""
    threads, model = serial_threads(2), on("digits", threads=2)
    assert threads is not None
    x = data_for(model.spec, 70).astype(np.float32)
    expected, found = model.embed(x), np.zeros((70, 16), np.float32)

    def part(low: int, high: int) -> bool:
        found[low:high] = model.embed(x[low:high])
        return True

    assert threads.run(part, [(0, 1), (1, 7), (7, 70)]) == []
    np.testing.assert_array_equal(found, expected)


def test_many_threads_have_the_bits_of_one() -> None:
    model = on("mnist", threads=2)
    x = data_for(model.spec, 48).astype(np.float32)
    calls: list[Callable[[int], Any]] = [
        lambda i: model.score(x[i : i + 1], "elbo"),
        lambda i: model.embed(x[i : i + 3]),
        lambda i: model.generate(2, start=i),
        lambda i: model.embed(x[: 33 + i % 2]),
    ]
    once = [[call(i) for i in range(40)] for call in calls]

    def worker(first: int) -> bool:
        picks = [((first + i) % 4, (7 * first + i) % 40) for i in range(200)]
        return all(np.array_equal(calls[call](i), once[call][i]) for call, i in picks)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(worker, range(8))) == [True] * 8


def test_closing_lets_those_inside_finish() -> None:
    model = on("mnist", threads=1)
    x = data_for(model.spec, 300).astype(np.float32)
    expected, begun = on("mnist", threads=1).embed(x), threading.Barrier(5, timeout=30)

    def worker(rows: int) -> bool:
        found = model.embed(x[:rows])
        begun.wait()
        try:
            while True:
                assert np.array_equal(found, expected[:rows])
                found = model.embed(x[:rows])
        except ClosedError:
            return True

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(worker, rows) for rows in (1, 5, 60, 300)]
        begun.wait()
        model.close()
        assert all(future.result(30) for future in futures)
    assert not model._engine._resources.direct


def test_a_plan_is_gone_as_soon_as_nobody_has_it() -> None:
    """Without waiting for the collector: packed weights and threads' rooms are megabytes."""
    model = on("mnist", threads=2)
    x = data_for(model.spec, 70).astype(np.float32)
    gc.collect()
    gc.disable()
    try:
        model.embed(x)
        model.embed(x[:2])
        executor = model._engine.executors.of("embed")
        assert isinstance(executor, CompiledExecutor)
        program = weakref.ref(executor._steps.program)
        model.close()
        del executor, model
        assert program() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_runs_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvae_kernels.cpu.row_program._LEAST", 1)
    model = on("mnist", threads=2)
    expected = model.generate(70, seed=9)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(model.generate(70, seed=9), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(model.generate(70, seed=9), expected)


def test_a_copy_has_the_same_bits() -> None:
    model = on("mnist")
    x = data_for(model.spec, 3).astype(np.float32)
    expected = model.score(x, "elbo")
    copy = pickle.loads(pickle.dumps(model))
    call_of(copy, "elbo")
    np.testing.assert_array_equal(copy.score(x, "elbo"), expected)


def test_memory_stays_what_it_is() -> None:
    model = on("breast_cancer", threads=1)
    x = data_for(model.spec, 40).astype(np.float32)

    def calls(count: int) -> None:
        for index in range(count):
            model.score(x[: 1 + index % 3], "elbo")
            if index % 10 == 0:
                model.embed(x)
                model.generate(2, start=index % 64)

    calls(100)
    tracemalloc.start()
    try:
        calls(100)
        before = tracemalloc.get_traced_memory()[0]
        calls(20_000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 2**14  # less than a byte a call


def test_a_call_of_several_batches_is_a_caller_inside() -> None:
    """For whom closing waits."""
    model = on("digits", batch_size=40)
    x, inside = data_for(model.spec, ROWS).astype(np.float32), set[int]()

    def batch(low: int, high: int) -> Any:
        inside.add(model._engine.in_use._callers)
        return x[low:high]

    assert call_of(model, "embed").in_batches(ROWS, batch) is not None
    assert inside == {1}


def test_memory_that_is_kept_can_be_given_back() -> None:
    model = vae(SPECS["conv_residual"])
    x = data_for(model.spec, 300).astype(np.float32)
    before = np.asarray(model.embed(x))
    executor = model._engine.executors.of("embed")
    assert isinstance(executor, CompiledExecutor)
    assert any(executor._steps.program._idle.values())
    model._engine.batches.release()
    assert not any(executor._steps.program._idle.values())
    np.testing.assert_array_equal(model.embed(x), before)
