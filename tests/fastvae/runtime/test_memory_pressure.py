"""Where memory is short, verbs go on in smaller batches, and say so when even one row is too much."""

from __future__ import annotations

import contextlib
import gc
import logging
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastvae.errors import ClosedError, FastVAEError, InputError, OutOfMemoryError
from fastvae.runtime.executor import Executor
from fastvae.runtime.memory import in_batches, is_out_of_memory
from fastvae.runtime.runner import Runner
from tests.fastvae.runtime.fakes import FakeGraphs, FakeLanes, on_fake, plain_vae
from tests.fastvae.support import SPECS, condition_for, data_for, mlp_spec

CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError(CPU),
    MemoryError(),
]
OTHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    ValueError("out of memory"),
    InputError("a result of shape (9,) does not fit in memory"),
    OutOfMemoryError("embed: not even one row fits in memory"),
    ClosedError("out of memory"),
]


def test_what_counts_as_out_of_memory() -> None:
    assert all(is_out_of_memory(error) for error in SHORT)
    assert not any(is_out_of_memory(error) for error in OTHER)
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert issubclass(OutOfMemoryError, FastVAEError)
    assert issubclass(OutOfMemoryError, MemoryError)


class Memory:
    """Room for so many rows of a plan at a time; the rows of every attempt."""

    def __init__(self, patch: pytest.MonkeyPatch, room: int, owner: Any = Runner, method: str = "run") -> None:
        self.room = room
        self.attempts: list[int] = []
        original = getattr(owner, method)

        def limited(runner: Any, verb: str, rows: int, inputs: Mapping[str, Tensor], *rest: Any, **how: Any) -> Any:
            self.attempts.append(rows)
            if rows > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return original(runner, verb, rows, inputs, *rest, **how)

        patch.setattr(owner, method, limited)


def verbs(spec: Any) -> dict[str, Callable[[Any], Any]]:
    x, c = data_for(spec, 20).astype(np.float32), condition_for(spec, 20)
    holes = x.copy()
    holes.reshape(20, -1)[:, ::3] = np.nan
    vectors = None if c is None else c[:1]
    return {
        "generate": lambda m: m.generate(20, seed=1, start=2**40, condition=vectors),
        "sample": lambda m: m.generate(20, seed=1, start=9, output="sample", condition=vectors),
        "stream": lambda m: np.concatenate(list(m.stream(20, batch_size=15, seed=1, condition=vectors))),
        "logvar": lambda m: m.encode(x, condition=c).logvar,
        "reconstruct": lambda m: m.reconstruct(x, condition=c),
        "decode": lambda m: m.decode(np.ones((20, *spec.latent_shape), np.float32), condition=c),
        "interpolate": lambda m: m.interpolate(x, x[::-1], 3, condition=c),
        "elbo": lambda m: m.score(x, "elbo", condition=c),
        "sampled": lambda m: m.score(x, "elbo", samples=3, start=5, condition=c),
        "iwae": lambda m: m.score(x, "iwae", samples=3, start=5, condition=c),
        "impute": lambda m: m.impute(holes, samples=6, start=4, condition=c),
        "draws": lambda m: m.impute(holes, samples=6, n_imputations=3, start=4, condition=c),
        "metropolis": lambda m: m.impute(holes, method="metropolis", samples=6, start=4, condition=c),
    }


@pytest.mark.parametrize(
    ("name", "verb"),
    [("mlp_predicted", verb) for verb in verbs(mlp_spec())] + [("mlp_conditional", "generate"), ("conv", "elbo")],
)
def test_smaller_batches_give_the_same_bits(monkeypatch: pytest.MonkeyPatch, name: str, verb: str) -> None:
    call = verbs(SPECS[name])[verb]
    expected = call(plain_vae(SPECS[name], batch_invariant=True))
    memory = Memory(monkeypatch, 6)
    np.testing.assert_array_equal(call(plain_vae(SPECS[name], batch_invariant=True)), expected)
    assert max(memory.attempts) > 6, "it never ran out"


def test_it_is_said_once_for_each_halving_and_remembered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, memory = plain_vae(mlp_spec(), batch_size=32), Memory(monkeypatch, 9)
    with caplog.at_level(logging.WARNING, "fastvae"):
        model.embed(data_for(mlp_spec(), 40))
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory: the internal batch of embed is now 16 rows",
        "out of memory: the internal batch of embed is now 8 rows",
    ]
    assert memory.attempts == [32, 16, 8, 8, 8, 8, 8]
    memory.attempts.clear()
    model.embed(data_for(mlp_spec(), 40))
    assert memory.attempts == [8] * 5
    assert model._engine.batches.rows("reconstruct") == 32, "another verb's"


def test_a_batch_that_was_small_already_is_halved_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model, memory = plain_vae(mlp_spec(), batch_size=1000), Memory(monkeypatch, 2)
    model.embed(data_for(mlp_spec(), 5))
    assert memory.attempts == [5, 3, 1, 1, 1, 1, 1]


def test_when_not_even_one_row_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, memory = plain_vae(mlp_spec(), batch_size=4), Memory(monkeypatch, 0)
    message = (
        r"embed: not even one row fits in memory; close other models, load this one on another device or in a lower"
    )
    with pytest.raises(OutOfMemoryError, match=message):
        model.embed(data_for(mlp_spec(), 40))
    for call in verbs(mlp_spec()).values():
        with pytest.raises(OutOfMemoryError):
            call(model)
    memory.room = 1
    assert model.embed(data_for(mlp_spec(), 3)).shape == (3, 3)


def test_other_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(Executor, "__call__", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        plain_vae(mlp_spec()).generate(2)


class Small:
    """Something whose batches can be made smaller."""

    looks = contextlib.nullcontext()

    def __init__(self) -> None:
        self.limit = 8
        self.released: Callable[[], None] = lambda: None

    def rows(self, verb: str) -> int:
        return self.limit

    def next_rows(self, rows: int, size: int) -> int:
        return min(rows, size)

    def side_by_side(self, verbs: object, rows: int, size: int) -> None:
        return None

    def limit_rows(self, verb: str, rows: int) -> None:
        self.limit = rows

    def release(self) -> None:
        self.released()


def test_what_failed_is_freed_before_the_next_attempt() -> None:
    """A traceback keeps its frames' tensors alive, so nothing may hold the error when memory is given back."""
    alive: list[weakref.ref[Tensor]] = []
    done: list[tuple[int, int]] = []
    small = Small()

    def released() -> None:
        assert alive.pop()() is None

    small.released = released

    def compute(low: int, high: int) -> None:
        tensor = torch.zeros(high - low)
        if len(tensor) > 3:
            alive.append(weakref.ref(tensor))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        done.append((low, high))

    gc.disable()
    try:
        in_batches(small, ["embed"], 1, 8, lambda: small.limit, compute)
    finally:
        gc.enable()
    assert done == [(1, 3), (3, 5), (5, 7), (7, 8)]


def test_what_another_thread_learnt_meanwhile_is_kept() -> None:
    small = Small()
    done: list[tuple[int, int]] = []

    def compute(low: int, high: int) -> None:
        if small.limit == 8:
            small.limit = 2  # another thread's halvings
            raise torch.OutOfMemoryError("CUDA out of memory.")
        done.append((low, high))

    in_batches(small, ["embed"], 0, 5, lambda: small.limit, compute)
    assert done == [(0, 2), (2, 4), (4, 5)]


def test_blocks_under_way_survive_one_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = FakeGraphs()
    x = data_for(mlp_spec(), 100)
    expected = plain_vae(mlp_spec(), batch_invariant=True).reconstruct(x)
    model = on_fake(mlp_spec(), graphs, lambda: FakeLanes(graphs), batch_size=16, batch_invariant=True)
    memory = Memory(monkeypatch, 16)
    original = Runner.run

    def shrinking(runner: Any, verb: str, rows: int, *rest: Any, **how: Any) -> Any:
        if len(memory.attempts) == 3:
            memory.room = 5
        return original(runner, verb, rows, *rest, **how)

    monkeypatch.setattr(Runner, "run", shrinking)
    np.testing.assert_array_equal(model.reconstruct(x), expected)
    assert memory.attempts[:7] == [16, 16, 16, 16, 8, 4, 4]
    assert graphs.forgotten == 2, "graphs were given back as well"


def test_a_recording_that_does_not_fit_halves_the_batch() -> None:
    graphs = FakeGraphs()
    model = on_fake(mlp_spec(), graphs, batch_size=32, precision="float64")
    failures = iter([True])

    def fail() -> None:
        if next(failures, False):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    graphs.fail = fail
    x = data_for(mlp_spec(), 32)
    np.testing.assert_allclose(model.embed(x), plain_vae(mlp_spec(), precision="float64").embed(x), rtol=1e-12)
    assert model._engine.batches.rows("embed") == 16
