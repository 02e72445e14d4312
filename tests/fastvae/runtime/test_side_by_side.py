"""Internal batches on several threads at once: the same bits, errors and memory as one after the other."""

from __future__ import annotations

import multiprocessing
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastvae
from fastvae.errors import InputError, OutOfMemoryError
from fastvae.runtime.batching import TILE, blocks, shared_part
from fastvae.runtime.kept_call import KeptCall
from fastvae.runtime.ort import OnnxExecutor
from fastvae.runtime.runner import Runner
from fastvae.runtime.side_by_side import SerialThreads, serial_threads
from tests.fastvae.support import conv_spec, data_for, mlp_spec, vae

ROWS = 5 * TILE + 3


def on(threads: int, spec: Any = None) -> fastvae.VAE:
    return vae(spec or mlp_spec(), impl="onnxruntime", batch_invariant=True, threads=threads)


def sessions(model: fastvae.VAE, verb: str) -> set[int]:
    """The numbers of threads that a verb has had sessions with."""
    executor = model._engine.executors.of(verb)
    assert isinstance(executor, OnnxExecutor)
    return set(executor._sessions._made)


@pytest.fixture
def sessions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """For plans that the compiled kernels would share between threads themselves."""
    monkeypatch.setattr("fastvae.runtime.executors.compiled_steps", lambda *_: None)


@given(st.integers(1, 10**9), st.integers(1, 5000), st.integers(2, 200))
def test_parts_are_even_and_of_whole_tiles_where_those_fit(rows: int, size: int, threads: int) -> None:
    part = shared_part(rows, size, threads)
    assert 1 <= part <= size
    assert part == size or part % TILE == 0 or size < TILE
    if (size < TILE or size % TILE == 0) and rows <= 10**5:
        parts = len(list(blocks(rows, part)))
        assert parts <= -(-rows // (size * threads)) * threads  # no more turns than the largest parts would take


@pytest.mark.parametrize("spec", [mlp_spec(), conv_spec()], ids=["mlp", "conv"])
def test_any_number_of_threads_gives_the_same_bits(spec: Any) -> None:
    x = data_for(spec, ROWS).astype(np.float32)
    holed = x.copy()
    holed[7, ..., 0] = np.nan
    one, three = on(1, spec), on(3, spec)
    calls: list[Any] = [
        lambda v: v.generate(ROWS, seed=3),
        lambda v: v.generate(ROWS, seed=3, output="sample"),
        lambda v: v.encode(x).mean,
        lambda v: v.reconstruct(holed, invalid="mask"),
        lambda v: v.score(x, "elbo"),
        lambda v: v.score(x, "iwae", samples=3),
        lambda v: v.impute(holed[:300], samples=4),
        lambda v: v.interpolate(x[:100], x[100:200], 3),
    ]
    for call in calls:
        np.testing.assert_array_equal(call(three), call(one))


def test_a_few_rows_left_over_are_kept_to_their_thread_too() -> None:
    model = vae(mlp_spec(), impl="onnxruntime", threads=2)
    call, executor = model._engine._short_ways.of("generate"), model._engine.executors.of("generate")
    assert call is not None
    assert isinstance(executor, OnnxExecutor)
    assert call._alone is not None
    _, alone = call._alone
    for few, threads in ((call._few, 2), (alone()._few, 1)):
        assert isinstance(few, KeptCall)
        assert few._session is executor._sessions.of(threads)


def test_batches_run_at_once_each_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[str, int]] = set()
    both = threading.Barrier(2, timeout=30)
    original = OnnxExecutor.__call__

    def watched(executor: Any, *given: Any) -> Any:
        name = threading.current_thread().name
        if name not in {name for name, _ in seen}:
            seen.add((name, torch.get_num_threads()))
            both.wait()  # nobody comes here alone
        return original(executor, *given)

    monkeypatch.setattr(OnnxExecutor, "__call__", watched)
    before = torch.get_num_threads()
    model = on(2)
    model.generate(2 * TILE)
    assert sessions(model, "decode") == {1, 2}
    assert {threads for _, threads in seen} == {1}
    assert all(name.startswith("fastvae") for name, _ in seen)
    assert torch.get_num_threads() == before
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [before], "threads started afterwards are as they would have been"


@pytest.mark.parametrize(
    "settings", [{"threads": 1}, {"batch_invariant": False}, {"impl": "reference", "threads": None}]
)
def test_others_go_one_by_one(settings: dict[str, Any]) -> None:
    model = vae(mlp_spec(), **({"impl": "onnxruntime", "threads": 2, "batch_invariant": True} | settings))
    assert model._engine.batches.side_by_side(["decode"], 10**6, 1024) is None


@pytest.mark.usefixtures("sessions_alone")
@pytest.mark.parametrize(("name", "verb"), [("digits", "generate"), ("mnist", "decode"), ("mnist", "elbo")])
def test_batches_with_noise_and_those_of_convolutions_go_so_in_any_mode(name: str, verb: str) -> None:
    engine = fastvae.load(name, device="cpu", threads=2)._engine
    size = engine.batches.rows(verb)
    assert engine.batches.side_by_side([verb], size, size) is None
    assert engine.batches.side_by_side([verb], size + 1, size) == (serial_threads(2), shared_part(size + 1, size, 2))


@pytest.mark.usefixtures("sessions_alone")
def test_the_short_way_and_the_long_one_side_by_side() -> None:
    one, two = (fastvae.load("mnist", device="cpu", threads=threads, batch_size=TILE) for threads in (1, 2))
    x = one.generate(4 * TILE)
    np.testing.assert_allclose(two.generate(4 * TILE), x, atol=1e-6)
    assert sessions(two, "generate") == {1, 2}
    np.testing.assert_allclose(two.reconstruct(x), one.reconstruct(x), atol=1e-6)
    double = x.astype(np.float64)  # not the short way
    np.testing.assert_array_equal(two.reconstruct(double), two.reconstruct(x))
    x[3 * TILE] = np.nan
    with pytest.raises(InputError, match="row 384 holds NaN"):
        two.reconstruct(x)


def test_a_single_tile_stays_where_it_is() -> None:
    assert on(2)._engine.batches.side_by_side(["decode"], TILE, 1024) is None


def test_what_one_batch_raises_is_raised_once_no_other_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = on(2)
    under_way: set[threading.Thread] = set()
    original = Runner.run

    def failing(runner: Any, verb: str, rows: int, *rest: Any, **how: Any) -> Any:
        under_way.add(threading.current_thread())
        try:
            if len(under_way) == 2:
                raise InputError("x: broken")
            return original(runner, verb, rows, *rest, **how)
        finally:
            under_way.discard(threading.current_thread())

    monkeypatch.setattr(Runner, "run", failing)
    with pytest.raises(InputError, match="x: broken"):
        model.generate(200 * TILE)
    assert not under_way


def test_what_does_not_fit_side_by_side_is_done_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = on(1).generate(ROWS)
    model, room = on(2), 2 * TILE
    original = Runner.run

    def short(runner: Any, verb: str, rows: int, *rest: Any, **how: Any) -> Any:
        alone = threading.current_thread() is threading.main_thread()
        if rows > (room if alone else TILE):
            raise torch.OutOfMemoryError("DefaultCPUAllocator: can't allocate memory")
        return original(runner, verb, rows, *rest, **how)

    monkeypatch.setattr(Runner, "run", short)
    np.testing.assert_array_equal(model.generate(ROWS), expected)
    room = 0
    with pytest.raises(OutOfMemoryError):
        model.generate(ROWS)


def test_a_thread_of_them_does_not_wait_for_itself() -> None:
    threads = serial_threads(2)
    assert threads is not None
    assert threads is serial_threads(2)
    found: list[SerialThreads | None] = []
    assert threads.run(lambda low, high: not found.append(serial_threads(2)), [(0, 1), (1, 2)]) == []
    assert found == [None, None]
    assert serial_threads(1) is None


@pytest.mark.usefixtures("sessions_alone")
def test_a_model_is_gone_as_soon_as_nobody_has_it() -> None:
    """Without waiting for the collector, which a forked child may not let end a session: its threads are not there."""
    model = fastvae.load("digits", device="cpu", threads=2)
    model.generate(10_000)
    engine = weakref.ref(model._engine)
    del model
    assert engine() is None


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_has_threads_of_its_own() -> None:
    model = on(2)
    expected = model.generate(ROWS)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def generate() -> None:
        torch.set_num_threads(1)  # PyTorch's own threads are not there either, and it would wait for them
        there.send(bool((model.generate(ROWS) == expected).all()))

    child = context.Process(target=generate)
    child.start()
    try:
        assert here.poll(60)
        assert here.recv()
    finally:
        child.kill()
        child.join()
