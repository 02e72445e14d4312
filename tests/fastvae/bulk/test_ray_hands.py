"""The driver's side of a Ray actor, the actor and the address, without a cluster."""

from __future__ import annotations

import pickle
import signal
import socket
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

import fastvae
from fastvae import bulk
from fastvae.bulk import ray_workers
from fastvae.bulk.folder import Folder
from fastvae.bulk.pool import Hand, Recipe, ThreadHand
from fastvae.bulk.progress import Progress, WorkerState
from fastvae.bulk.ray_actor import Ingredients, Seat
from fastvae.bulk.ray_workers import RayHand
from fastvae.bulk.work import Failed, Ready, Unfit
from fastvae.errors import InputError, JobError, UnsupportedError
from tests.fastvae.bulk.fakes import MadeRecipe, MadeRows, QuickDisk, assert_whole, drive_with, made_job

SEEN = "it must be on storage that all nodes see"


class Calls:
    """An actor in this process, as Ray would show it: methods with ``remote``, whose results are futures."""

    def __init__(self, seat: Any) -> None:
        self._seat, self._dead = seat, False
        self._calls: list[Future[Any]] = []

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            if self._dead:
                raise ray.exceptions.ActorDiedError
            call: Future[Any] = Future()
            self._calls.append(call)
            threading.Thread(target=self._answer, args=(call, name, arguments), daemon=True).start()
            return SimpleNamespace(future=lambda: call)

        return SimpleNamespace(remote=remote)

    def _answer(self, call: Future[Any], name: str, arguments: tuple[Any, ...]) -> None:
        try:
            result = getattr(self._seat, name)(*arguments)
        except Exception as error:
            self._over(call, error)
        else:
            if not call.done():
                call.set_result(result)

    def _over(self, call: Future[Any], error: Exception) -> None:
        if not call.done():
            call.set_exception(error)

    def die(self) -> None:
        self._dead = True
        for call in self._calls:
            self._over(call, ray.exceptions.ActorDiedError())


def hand_of(seat: Any) -> tuple[RayHand, Calls]:
    """A hand whose actor is in this process."""
    actor = Calls(seat)
    ours = SimpleNamespace(
        exceptions=ray.exceptions,
        wait=lambda calls, timeout: [call.future().result(timeout) for call in calls],
        kill=lambda actor: actor.die(),
    )
    return RayHand(ours, actor), actor


def prepared(recipe: Ingredients) -> Seat:
    """An actor for a recipe, whose folder is there."""
    recipe.place().path.mkdir(parents=True)
    recipe.place().prepare(recipe.job)
    return Seat(pickle.dumps(recipe), 1)


def test_a_hand_works_leaves_and_ends(tmp_path: Path) -> None:
    hand, _ = hand_of(prepared(MadeRecipe(made_job(n=42, shard_size=13), tmp_path / "job", tmp_path)))
    assert not hand.loaded
    assert hand.connection.recv() == Ready()
    for shard in (0, 3):
        hand.send(shard)
    answers = {answer.shard: answer for answer in (hand.connection.recv(), hand.connection.recv())}
    assert answers[0].rows == 13
    assert answers[3] == Failed(3, "ValueError: thirty-nine", disk=False)
    assert hand.alive
    hand.stop()
    hand.join()
    assert not hand.alive
    with pytest.raises(BrokenPipeError):
        hand.send(1)


def test_a_hand_whose_actor_dies(tmp_path: Path) -> None:
    hand, actor = hand_of(prepared(MadeRecipe(made_job(), tmp_path / "job", tmp_path)))
    assert hand.connection.recv() == Ready()
    actor.die()
    with pytest.raises(EOFError):
        hand.connection.recv()
    assert "Ray says: The actor died" in hand.hint
    with pytest.raises(BrokenPipeError):
        hand.send(1)
    begun = time.monotonic()
    hand.stop()
    hand.join()
    assert time.monotonic() - begun < ray_workers.PATIENCE


def test_a_cluster_that_is_lost(tmp_path: Path) -> None:
    """As Ray's client says it: every call raises, first those of the actor, then making another."""

    def lost(*_: object) -> None:
        raise ConnectionError("the client has already been disconnected")

    call = SimpleNamespace(remote=lost)
    hand = RayHand(ray, SimpleNamespace(live=call, load=call))
    assert not hand.alive
    crew = ray_workers.Cluster(True, MadeRecipe(made_job(), tmp_path, tmp_path), 1)
    crew._ray, crew._seat = ray, call
    with pytest.raises(JobError, match=r"the cluster is lost \(the client .* disconnected\); the same call goes on"):
        drive_with(crew, made_job(), Folder(tmp_path / "job", QuickDisk()), lambda state: None)


def test_actors_that_die_before_they_have_the_model(tmp_path: Path) -> None:
    class Broken:
        def load(self) -> None:
            raise ModuleNotFoundError("No module named 'fastvae'")

        def live(self) -> None:
            threading.Event().wait()

    crew = SimpleNamespace(size=lambda: 1, start=lambda index: hand_of(Broken())[0])
    with pytest.raises(JobError, match=r"must be installed on every node.*Ray says: No module named 'fastvae'"):
        drive_with(crew, made_job(), Folder(tmp_path / "job"), lambda state: None)


def recipe_of(model: fastvae.VAE, out: Path) -> Recipe:
    """What :func:`bulk.generate` hands to workers, for a job of a few samples."""
    bulk.generate(model, 10, out)
    engine = model._engine
    return Recipe(engine.model, engine.settings, None, Folder(out).job(), out)


def test_an_actor_that_would_make_other_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fastvae.load("digits", batch_invariant=True)
    recipe = pickle.dumps(recipe_of(model, tmp_path / "job"))
    assert Seat(recipe, 1).load() == Ready()
    with monkeypatch.context() as patched:
        patched.setattr("torch.backends.cpu.get_cpu_capability", lambda: "another")
        answer = Seat(recipe, 1).load()
    assert isinstance(answer, Unfit)
    assert "device x86_64" in answer.error
    with monkeypatch.context() as patched:
        patched.setattr(fastvae, "__version__", "99")
        answer = Seat(recipe, 1).load()
    assert isinstance(answer, Unfit)
    assert "is one of fastvae" in answer.error


def test_an_actor_that_does_not_see_the_folder(tmp_path: Path) -> None:
    job, out = made_job(), tmp_path / "job"
    assert prepared(MadeRecipe(job, out, tmp_path)).load() == Ready()
    answer = Seat(pickle.dumps(MadeRecipe(made_job(n=3), out, tmp_path)), 1).load()
    assert answer == Unfit(f"on {socket.gethostname()}: {out}: holds another job here; {SEEN}")
    (out / "job.json").unlink()
    answer = Seat(pickle.dumps(MadeRecipe(job, out, tmp_path)), 1).load()
    assert isinstance(answer, Unfit)
    assert answer.error.endswith(f"it has no job.json that can be read; {SEEN}")


def test_a_worker_that_does_not_fit_ends_the_job(tmp_path: Path) -> None:
    job, folder = made_job(), Folder(tmp_path / "job", QuickDisk())

    def start(index: int) -> Hand:
        hand, _ = hand_of(SimpleNamespace(load=lambda: Unfit("on node7: device a, not b"), live=lambda: None))
        return hand

    crew = SimpleNamespace(size=lambda: 1, start=start)
    with pytest.raises(JobError, match="a worker does not fit the job: on node7: device a, not b"):
        drive_with(crew, job, folder, lambda state: None)


def test_an_actor_that_leaves_in_the_midst_of_a_shard(tmp_path: Path) -> None:
    out = tmp_path / "job"
    seat = prepared(MadeRecipe(made_job(n=300_000, shard_size=300_000, block_rows=2), out, tmp_path))
    assert seat.load() == Ready()
    threading.Thread(target=seat.make, args=(0,), daemon=True).start()
    deadline = time.monotonic() + 60
    while not list(out.glob(".*.tmp")):
        assert time.monotonic() < deadline
    seat.leave()
    assert sorted(path.name for path in out.iterdir()) == ["job.json"]
    seat.live()


def test_a_shard_stays_for_a_worker_that_is_still_loading(tmp_path: Path) -> None:
    """Two shards, two workers, one of them slow to load: the other does not take both at once."""
    job, folder = made_job(n=8), Folder(tmp_path / "job", QuickDisk())
    begun, loaded = threading.Event(), threading.Event()
    states: list[WorkerState] = []

    def watch(state: Progress) -> None:
        states[:] = state.workers or states
        assert not any(worker.shards for worker in state.workers if worker.state == "loading")
        if state.event == "ready":
            loaded.set()

    def before(index: int) -> None:
        begun.set()
        assert loaded.wait(60)

    def start(index: int) -> Hand:
        if index == 0:
            return ThreadHand(job, folder, MadeRows(before))
        seat = Seat(pickle.dumps(MadeRecipe(job, folder.path, tmp_path)), 1)
        load = seat.load
        seat.load = lambda: begun.wait(60) and load()  # type: ignore[method-assign]
        return hand_of(seat)[0]

    drive_with(SimpleNamespace(size=lambda: 2, start=start), job, folder, watch)
    assert_whole(job, folder.path)
    assert [worker.done for worker in states] == [1, 1]


def node(**resources: float) -> dict[str, Any]:
    return {"Alive": True, "Resources": resources}


def test_the_room_there_is() -> None:
    nodes = [node(CPU=7.5, GPU=2), node(CPU=1), {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    assert ray_workers.room(nodes, {"num_cpus": 1, "num_gpus": 0}) == 8
    assert ray_workers.room(nodes, {"num_cpus": 3, "num_gpus": 0}) == 2
    assert ray_workers.room(nodes, {"num_cpus": 1, "num_gpus": 1}) == 2
    with pytest.raises(JobError, match="no node of the cluster has 8 CPU;"):
        ray_workers.room(nodes, {"num_cpus": 8, "num_gpus": 0})
    with pytest.raises(JobError, match="no node of the cluster has 1 CPU and 1 GPU;"):
        ray_workers.room(nodes[1:], {"num_cpus": 1, "num_gpus": 1})


def test_what_a_worker_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU model takes a GPU and a CPU, wherever the driver has its own; a relative folder becomes absolute."""
    monkeypatch.chdir(tmp_path)
    model = fastvae.load("digits", batch_invariant=True)
    recipe = recipe_of(model, Path("job"))
    crew = ray_workers.cluster(True, recipe, None, 3)
    assert (crew._needs, crew._threads) == ({"num_cpus": 3, "num_gpus": 0}, 3)
    assert isinstance(crew._recipe, Recipe)
    assert crew._recipe.folder == tmp_path / "job"
    crew = ray_workers.cluster(True, replace(recipe, settings=replace(recipe.settings, device="cuda:3")), None, 3)
    assert isinstance(crew._recipe, Recipe)
    assert (crew._needs, crew._recipe.settings.device) == ({"num_cpus": 1, "num_gpus": 1}, "cuda")


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        (3, InputError, r"ray: expected True, False, 'auto', 'local', 'host:port' or 'ray://host:port', got 3"),
        ("", InputError, "ray: expected True"),
        ("mnist", InputError, "ray: expected True.*got 'mnist'"),
        (":77", InputError, "ray: expected True"),
        ("127.0.0.1:1", JobError, "ray: no cluster at '127.0.0.1:1'"),
        ("ray://127.0.0.1:1", JobError, "ray: no cluster at 'ray://127.0.0.1:1'"),
        ("127.0.0.1:99999", JobError, "ray: no cluster at '127.0.0.1:99999'"),
    ],
)
def test_addresses_without_a_cluster(
    tmp_path: Path, gaussian: fastvae.VAE, monkeypatch: pytest.MonkeyPatch, address: Any, error: Any, message: str
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(error, match=message):
        bulk.generate(gaussian, 10, tmp_path / "job", ray=address)
    assert (tmp_path / "job").exists() == (error is JobError)


def test_an_address_where_something_else_answers(
    tmp_path: Path, gaussian: fastvae.VAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without what Ray's client needs, and where Ray wants a token that nobody has shown."""

    def init(address: str, **options: object) -> None:
        raise ConnectionError("failed to connect")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UnsupportedError, match=r"ray:// need the package grpcio: pip install 'ray\[client\]'"):
            bulk.generate(gaussian, 10, tmp_path / "job", ray=f"ray://{address}")
        monkeypatch.setenv("RAY_ADDRESS", address)
        for ray_ in (address, True):
            with pytest.raises(
                JobError, match=rf"at '{address}': failed to connect; if it wants .*RAY_AUTH_MODE=token"
            ):
                bulk.generate(gaussian, 10, tmp_path / "job", ray=ray_)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        with pytest.raises(JobError, match=r"failed to connect$"):
            bulk.generate(gaussian, 10, tmp_path / "job", ray=address)


def test_ray_is_not_installed(tmp_path: Path, gaussian: fastvae.VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'fastvae-engine\[ray\]'"):
        bulk.generate(gaussian, 10, tmp_path / "job", ray=True)
    bulk.generate(gaussian, 10, tmp_path / "job")
    bulk.generate(gaussian, 10, tmp_path / "job", ray=True)  # nothing is missing, so nothing is asked for


def test_ctrl_c_is_told_of_before_workers_and_ray_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, folder = made_job(n=40), Folder(tmp_path / "job", QuickDisk())
    order: list[str] = []

    class Hand(ThreadHand):
        def stop(self) -> None:
            order.append("worker")
            super().stop()

    def watch(state: Progress) -> None:
        if state.event == "stop":
            order.append(f"told of {len(state.workers)} worker")
            raise BrokenPipeError  # whoever reads has gone as well
        if state.event == "shard":
            raise KeyboardInterrupt

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **options: None)
    monkeypatch.setattr(ray, "shutdown", lambda: order.append("ray"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    crew = SimpleNamespace(size=lambda: 1, start=lambda index: Hand(job, folder, MadeRows()))
    with pytest.raises(KeyboardInterrupt), ray_workers.joined(True):
        drive_with(crew, job, folder, watch)
    assert order == ["told of 1 worker", "worker", "ray"]


def test_the_handler_of_sigterm_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray of our own is started quietly, and shut down."""
    calls: list[Any] = []

    def init(address: object, **options: object) -> None:
        calls.append((address, options["log_to_driver"]))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with ray_workers.joined(True):
        assert signal.getsignal(signal.SIGTERM) == before
    assert calls == [(None, False), "shutdown"]
