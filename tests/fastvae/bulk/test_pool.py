"""Workers in processes of their own, which are forked from a server that may be older than what they should know."""

import os
import pickle
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NoReturn

import pytest

from fastvae import processes
from fastvae.bulk.pool import ProcessHand
from fastvae.bulk.work import Unfit
from fastvae.errors import JobError


@dataclass(frozen=True)
class Telling:
    """A recipe for nothing: its worker answers what it finds in its environment."""

    names: tuple[str, ...]

    def source(self) -> NoReturn:
        raise JobError(repr([os.environ.get(name) for name in self.names]))


def test_a_worker_has_the_environment_of_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where that has changed since the server began; a variable that is gone is gone."""
    context = processes.context()
    ours, theirs = context.Pipe()
    names = ("PATH", "FASTVAE_NEW")
    before = context.Process(target=tell, args=(theirs, names))
    before.start()  # and with it the server, if there was none
    path, new = ours.recv()
    before.join()
    assert path
    assert new is None
    monkeypatch.delenv("PATH")
    monkeypatch.setenv("FASTVAE_NEW", "é")
    hand = ProcessHand(pickle.dumps(Telling(names)), 1)
    try:
        assert hand.connection.recv() == Unfit("[None, 'é']")
    finally:
        hand.stop()
        hand.join()


def tell(connection: Connection, names: tuple[str, ...]) -> None:
    """Send what a process that was forked and did nothing else has."""
    connection.send([os.environ.get(name) for name in names])
