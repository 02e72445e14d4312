"""Workers that are Ray actors, on whatever machines a cluster has; Ray is imported when the first one is needed."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from fastvae.bulk.driver import HELD
from fastvae.bulk.pool import Recipe
from fastvae.bulk.ray_actor import Ingredients, Seat
from fastvae.bulk.work import Message
from fastvae.errors import InputError, JobError, UnsupportedError

# Calls an actor has at once: its shards, its life, loading the model, leaving.
CALLS: Final = HELD + 3
# Seconds that actors have to leave off before they are killed.
PATIENCE: Final = 0.5
# Seconds to wait for a cluster's address to answer.
REACH: Final = 10
# How addresses of Ray's client begin, and the variable that says whether Ray shows its token.
CLIENT: Final = "ray://"
AUTHENTICATION: Final = "RAY_AUTH_MODE"


class RayHand:
    """A worker in an actor. Ray answers calls on threads of its own; they put the answers into a pipe."""

    loaded = False

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self.connection, self._answers = multiprocessing.Pipe(duplex=False)
        self._lock = threading.Lock()
        self._death = ""
        self._leaving: Any = None
        self._until = 0.0
        self._call(actor.live)
        self._call(actor.load)

    @property
    def hint(self) -> str:
        """See :class:`fastvae.bulk.pool.Hand`."""
        return f"fastvae must be installed on every node, and memory must suffice. Ray says: {self._death}"

    @property
    def waitable(self) -> Sequence[Connection]:
        """See :class:`fastvae.bulk.pool.Hand`; the connection's end is the actor's."""
        return [self.connection]

    @property
    def alive(self) -> bool:
        """See :class:`fastvae.bulk.pool.Hand`."""
        return not self._death

    def send(self, shard: int) -> None:
        """See :class:`fastvae.bulk.pool.Hand`."""
        self._call(self._actor.make, shard)
        if self._death:
            raise BrokenPipeError(self._death)

    def stop(self) -> None:
        """See :class:`fastvae.bulk.pool.Hand`."""
        self._until = time.monotonic() + PATIENCE
        if self.alive:
            with contextlib.suppress(Exception):  # it, or all of Ray, died just now
                self._leaving = self._actor.leave.remote()

    def join(self) -> None:
        """See :class:`fastvae.bulk.pool.Hand`."""
        with contextlib.suppress(Exception):  # as above
            if self._leaving is not None:
                self._ray.wait([self._leaving], timeout=max(0.0, self._until - time.monotonic()))
            self._ray.kill(self._actor)
        self._end("it was stopped")
        self.connection.close()

    def _call(self, method: Any, *arguments: Any) -> None:
        """Call a method of the actor; its result comes out of the connection."""
        try:
            method.remote(*arguments).future().add_done_callback(self._hear)
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            self._end(str(error))

    def _hear(self, future: Future[Message | None]) -> None:
        error = future.exception()
        if error is not None:
            self._end(str(error))
        elif (message := future.result()) is not None:
            with self._lock, contextlib.suppress(OSError):
                self._answers.send(message)

    def _end(self, death: str) -> None:
        """Close the connection: the actor is no more."""
        with self._lock:
            self._death = self._death or " ".join(death.split())
            self._answers.close()


def cluster(address: bool | str, recipe: Recipe, workers: int | None, threads: int) -> Cluster:
    """Actors that make a recipe, each with ``threads`` where it runs on CPUs, or the one GPU that Ray shows it."""
    gpu = recipe.settings.device.startswith("cuda")
    settings = replace(recipe.settings, device="cuda" if gpu else recipe.settings.device)
    folder = recipe.folder if isinstance(recipe.folder, str) else Path(os.path.abspath(recipe.folder))
    sent = replace(recipe, settings=settings, folder=folder)
    return Cluster(address, sent, workers, threads=threads, gpu=gpu)


class Cluster:
    """Makes actors for a job, in a Ray that is asked for, and joined or started, when the first one is needed.

    Raises, from :meth:`size` and :meth:`start`:
        UnsupportedError: Ray, or what its client needs, is not installed.
        InputError: this process is connected to another Ray.
        JobError: there is no Ray at ``address``, or no longer, or no place for a worker.
    """

    def __init__(
        self, address: bool | str, recipe: Ingredients, workers: int | None, *, threads: int = 1, gpu: bool = False
    ) -> None:
        self._address, self._recipe, self._workers, self._threads = address, recipe, workers, threads
        self._needs = {"num_cpus": 1 if gpu else threads, "num_gpus": int(gpu)}
        self._ray: Any = None
        self._seat: Any = None
        self._sent: Any = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._seat = self._sent = None
        self._stack.close()

    def size(self) -> int:
        """Workers there shall be: as many as asked for, or else as the cluster has room for now."""
        ray = self._joined()
        return self._workers or room(ray.nodes(), self._needs)

    def start(self, index: int) -> RayHand:
        """A worker of the cluster; it may have to wait for room."""
        ray = self._joined()
        try:
            return RayHand(ray, self._seat.remote(self._sent, self._threads))
        except ConnectionError as error:
            raise JobError(f"ray: the cluster is lost ({error}); the same call goes on with what is there") from error

    def _joined(self) -> Any:
        if self._ray is None:
            ray = self._stack.enter_context(joined(self._address))
            options = {"max_restarts": 0, "max_concurrency": CALLS, **self._needs}
            self._seat = ray.remote(**options)(Seat)
            self._sent = ray.put(pickle.dumps(self._recipe))
            self._ray = ray
        return self._ray


def room(nodes: Sequence[dict[str, Any]], needs: dict[str, int]) -> int:
    """How many workers of such ``needs`` the living ones of Ray's ``nodes`` have room for.

    Raises:
        JobError: none.
    """
    found = 0
    for node in nodes:
        if node["Alive"]:
            has = {"num_cpus": node["Resources"].get("CPU", 0), "num_gpus": node["Resources"].get("GPU", 0)}
            found += min(int(has[name] // need) for name, need in needs.items() if need)
    if not found:
        wanted = " and ".join(f"{need} {name[4:-1].upper()}" for name, need in needs.items() if need)
        raise JobError(f"ray: no node of the cluster has {wanted}; with workers given, the job waits for such nodes")
    return found


@contextlib.contextmanager
def joined(address: bool | str) -> Iterator[Any]:
    """Ray, connected to a cluster; left as it was found."""
    ray = _imported()
    if ray.is_initialized():
        if address not in (True, "auto") and address != (own := ray.get_runtime_context().gcs_address):
            raise InputError(f"ray: this process is connected to the Ray at {own}, not at {address!r}; pass ray=True")
        yield ray
        return
    asked = address if isinstance(address, str) else os.environ.get("RAY_ADDRESS", "auto")
    _check_reachable(asked)
    _check_client(asked)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            None if address is True else address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise JobError(f"ray: no cluster at {asked!r}: {error}{_hint(asked)}") from error
    finally:
        if main and handler is not None:  # Ray has put its own in place
            signal.signal(signal.SIGTERM, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def check_address(address: Any) -> bool | str:
    """The argument ``ray``: False, or where to look for a cluster.

    Raises:
        InputError: it cannot be either.
    """
    if isinstance(address, bool):
        return address
    if not isinstance(address, str) or not (address in ("auto", "local") or "://" in address or _place(address)):
        raise InputError(
            f"ray: expected True, False, 'auto', 'local', 'host:port' or 'ray://host:port', got {address!r:.80}"
        )
    return address


def _place(address: str) -> tuple[str, int] | None:
    """Host and port of an address, if it has them."""
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    return (host.strip("[]"), int(port)) if port.isdecimal() and host else None


def _check_reachable(address: str) -> None:
    """Refuse an address where nothing answers; Ray itself would try again for many minutes.

    Raises:
        JobError: nothing answers there.
    """
    if (place := _place(address)) is not None:
        try:
            socket.create_connection(place, REACH).close()
        except (OSError, OverflowError, ValueError) as error:
            raise JobError(f"ray: no cluster at {address!r}: {error}") from error


def _check_client(address: str) -> None:
    """Refuse an address of Ray's client where that is not installed.

    Raises:
        UnsupportedError: it is such an address, and there is no grpcio.
    """
    if address.startswith(CLIENT) and importlib.util.find_spec("grpc") is None:
        raise UnsupportedError(f"ray: addresses {CLIENT} need the package grpcio: pip install 'ray[client]'")


def _hint(address: str) -> str:
    """What may be the matter if Ray finds nothing where something answers; newer Rays want a token by default."""
    if _place(address) is None or os.environ.get(AUTHENTICATION):
        return ""
    return f"; if it wants a token, set {AUTHENTICATION}=token and have its ~/.ray/auth_token here, too"


def _imported() -> Any:
    """The package.

    Its notes on workers that died go to stdout, where others may read JSON; it reads this variable when imported.
    """
    quiet = "RAY_DEDUP_LOGS_SKIP_REGEX"
    fresh = "ray" not in sys.modules and quiet not in os.environ
    try:
        if fresh:
            os.environ[quiet] = "."
        import ray
    except ModuleNotFoundError as error:
        raise UnsupportedError("ray: Ray is not installed; pip install 'fastvae-engine[ray]'") from error
    finally:
        if fresh:
            del os.environ[quiet]
    return ray
