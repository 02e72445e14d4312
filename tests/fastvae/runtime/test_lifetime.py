"""Closing a model and what a fork leaves of it; one copy of every weight."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastvae
from fastvae import errors
from fastvae.errors import ClosedError, FastVAEError, ForkError
from fastvae.plan.verbs import VERBS
from fastvae.runtime.lifetime import Lifetime
from fastvae.runtime.short_ways import ShortWays
from fastvae.runtime.weights import WeightStore
from tests.fastvae.runtime.fakes import FakeGraphs, FakeLanes, on_fake, plain_vae
from tests.fastvae.support import SPECS, data_for, mlp_spec, vae

X = data_for(mlp_spec(), 5).astype(np.float32)
CALLS: dict[str, Callable[[Any], Any]] = {
    "generate": lambda m: m.generate(1),
    "stream": lambda m: m.stream(1),
    "encode": lambda m: m.encode(X),
    "embed": lambda m: m.embed(X[:0]),
    "decode": lambda m: m.decode(X[:, :3]),
    "reconstruct": lambda m: m.reconstruct(X),
    "interpolate": lambda m: m.interpolate(X, X, 2),
    "score": lambda m: m.score(X),
    "impute": lambda m: m.impute(X),
    "warmup": lambda m: m.warmup(),
    "save": lambda m: m.save("model.safetensors"),
    "export": lambda m: m.export("model.onnx"),
    "explain": lambda m: m.explain("decode"),
}


def test_the_errors_are_public_and_of_the_family() -> None:
    for name in ("ClosedError", "ForkError", "OutOfMemoryError"):
        assert name in errors.__all__
        assert issubclass(getattr(errors, name), FastVAEError)
    assert issubclass(ClosedError, RuntimeError)
    assert issubclass(ForkError, RuntimeError)


def test_a_closed_model_says_so_in_every_verb() -> None:
    with plain_vae(mlp_spec()) as model:
        q, stream = model.encode(X), model.stream(4, batch_size=2)
        next(stream)
    model.close()
    for verb, call in CALLS.items():
        with pytest.raises(ClosedError, match="this model was closed; load it again"):
            call(model)
        assert hasattr(model, verb)
    later: list[Callable[[], Any]] = [lambda: next(stream), q.sample, q.kl, lambda: pickle.dumps(model)]
    for call_later in later:
        with pytest.raises(ClosedError):
            call_later()
    assert q.mean.shape == (5, 3)
    assert model.spec.input_shape == (6,)
    assert "input_shape" in repr(model)


def test_closing_frees_the_weights_the_graphs_and_the_buffers() -> None:
    graphs = FakeGraphs()
    model = on_fake(mlp_spec(), graphs, lambda: FakeLanes(graphs), batch_size=2)
    model.score(X)
    engine = model._engine
    held = [weakref.ref(weight) for weight in model._model.weights.values()]
    held += [weakref.ref(weight) for weight in engine.executors.of("elbo").plan.weights.values()]
    staged = weakref.ref(engine.stages._idle[0])
    model.close()
    assert [found() for found in held] == [None] * len(held)
    assert staged() is None
    assert graphs.forgotten == 1


def test_dropping_a_model_frees_it_without_the_garbage_collector() -> None:
    model = plain_vae(mlp_spec())
    model.score(X)
    weight = weakref.ref(next(iter(model._engine.executors.of("elbo").plan.weights.values())))
    del model
    assert weight() is None


def test_closing_waits_for_the_verbs_of_other_threads() -> None:
    model, entered, leave = plain_vae(mlp_spec()), threading.Event(), threading.Event()
    encode, results, order = model._engine.embed, list[Any](), list[str]()

    def slow(*arguments: Any, **settings: Any) -> Any:
        entered.set()
        leave.wait(10)
        order.append("computed")
        return encode(*arguments, **settings)

    model._engine.embed = slow  # type: ignore[method-assign]
    working = threading.Thread(target=lambda: results.append(model.interpolate(X, X, 2)))  # verbs within a verb
    closing = threading.Thread(target=lambda: (model.close(), order.append("closed")))
    working.start()
    assert entered.wait(10)
    closing.start()
    deadline = time.monotonic() + 10
    while not model._engine.in_use.closed and time.monotonic() < deadline:
        time.sleep(0.001)
    with pytest.raises(ClosedError):
        model.generate(1)
    assert closing.is_alive()
    leave.set()
    working.join(10)
    closing.join(10)
    assert order == ["computed", "computed", "closed"]
    assert results[0].shape == (5, 2, 6)


def test_no_short_way_is_left_behind_by_who_came_before_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, entered, leave = vae(mlp_spec(), impl="onnxruntime"), threading.Event(), threading.Event()
    make = ShortWays._new

    def slow(self: ShortWays, verb: str) -> Any:
        made = make(self, verb)
        entered.set()
        leave.wait(10)
        return made

    monkeypatch.setattr(ShortWays, "_new", slow)
    working = threading.Thread(target=model.embed, args=(X,))
    closing = threading.Thread(target=model.close)
    working.start()
    assert entered.wait(10)
    closing.start()
    deadline = time.monotonic() + 10
    while not model._engine.in_use.closed and time.monotonic() < deadline:
        time.sleep(0.001)
    leave.set()
    working.join(10)
    closing.join(10)
    assert not model._engine._resources.direct
    with pytest.raises(ClosedError):
        model.embed(X)


def test_an_error_in_a_verb_is_a_caller_gone() -> None:
    model = plain_vae(mlp_spec())
    with pytest.raises(fastvae.errors.InputError):
        model.embed("no rows")
    model.close()


@pytest.mark.parametrize("name", ["mlp_predicted", "conv"])
@pytest.mark.parametrize("precision", ["ieee", "bf16"])
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_plans_share_their_weights(name: str, precision: str, batch_invariant: bool) -> None:
    model = plain_vae(SPECS[name], precision=precision, batch_invariant=batch_invariant)
    plans = [model._engine.executors.of(verb).plan for verb in VERBS]
    weights = [weight for plan in plans for weight in plan.weights.values()]
    memory = {weight.data_ptr() for weight in weights}
    distinct = {(str(weight.dtype), tuple(weight.shape), weight.float().numpy().tobytes()) for weight in weights}
    assert len(memory) == len(distinct) < len(weights)


def test_weights_are_one_only_if_their_bits_are() -> None:
    store = WeightStore()
    first = store.share(torch.tensor([0.0, float("nan")]))
    assert store.share(torch.tensor([0.0, float("nan")])) is first
    for other in (torch.tensor([-0.0, float("nan")]), torch.tensor([[0.0, float("nan")]]), torch.zeros(2).double()):
        assert store.share(other) is other
    assert store.share(torch.tensor(2.0)) is not first


def in_child(work: Callable[[], str]) -> str:
    """What ``work`` gives in a forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, work().encode())
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + 20
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return "hung"
        time.sleep(0.01)
    with os.fdopen(reader) as file:
        return file.read()


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_of_a_model_on_a_gpu_says_what_is_wrong() -> None:
    model = plain_vae(mlp_spec())
    model._engine._resources.lifetime = Lifetime(survives_fork=False)
    found = in_child(lambda: str(model.generate(1)))
    assert found.startswith("ForkError: this process was forked from one that had the model on a GPU")
    assert "load the model in the child" in found
    assert in_child(lambda: str(model.close())) == "None"
    assert model.generate(1).shape == (1, 6), "the parent's still works"


CHILD = """
import os, threading, torch, fastvae
torch.set_num_threads(1)
model = fastvae.load("digits")
expected = model.generate(3)
entered, leave = threading.Event(), threading.Event()
def busy():
    with model._engine.in_use, model._engine._resources.lock:
        entered.set()
        leave.wait(60)
threading.Thread(target=busy, daemon=True).start()
entered.wait(60)
child = os.fork()
if child == 0:  # another thread of the parent holds the lock and is inside the model; neither is so here
    same = (model.generate(3) == expected).all() and model.score(expected).shape == (3,)
    model.close()
    os._exit(0 if same else 1)
leave.set()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@forks
def test_a_forked_child_uses_a_model_on_the_cpu() -> None:
    root = os.pathsep.join(path for path in sys.path if path)
    environment = {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", CHILD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
    assert done.stdout.strip() == "0"


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_leaves_the_sessions_of_its_parent_alone() -> None:
    """Their threads are not there: a call that gave them work would wait for ever."""
    model = vae(mlp_spec(), impl="onnxruntime")
    model.embed(X)
    engine = model._engine
    session, direct = engine.executors.of("embed"), engine._resources.direct["embed"]

    def made_anew() -> str:
        same = np.array_equal(model.embed(X), z)
        return f"{same} {engine.executors.of('embed') is session} {engine._resources.direct['embed'] is direct}"

    z = model.embed(X)
    assert in_child(made_anew) == "True False False"
    assert engine.executors.of("embed") is session
