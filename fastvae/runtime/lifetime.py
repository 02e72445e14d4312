"""From loading a model to closing it: who is using it, and what a fork leaves of it."""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType
from typing import Protocol

from fastvae.errors import ClosedError, FastVAEError, ForkError


class Lifetime:
    """Counts the callers inside a model, so that closing it can wait for them.

    ``with lifetime:`` is one caller at work; it may be entered again from within, also while another thread waits to
    close. After closing, or in a forked child of a process that had the model on a GPU, entering raises.

    Raises:
        ClosedError, ForkError: on entering.
    """

    def __init__(self, *, survives_fork: bool) -> None:
        self._survives_fork = survives_fork
        self._refusal: FastVAEError | None = None
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.Lock()  # taken at every call: a plain one takes a tenth of the time of the condition's
        self._changed = threading.Condition(self._lock)
        self._callers = 0
        self._depths = threading.local()

    def __enter__(self) -> None:
        depth = getattr(self._depths, "value", 0)
        if depth == 0:
            with self._lock:
                if self._refusal is not None:
                    raise type(self._refusal)(*self._refusal.args)
                self._callers += 1
        self._depths.value = depth + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        depth = self._depths.value = self._depths.value - 1
        if depth == 0:
            with self._lock:
                self._callers -= 1
                if self._refusal is not None:  # somebody may be waiting to close
                    self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return isinstance(self._refusal, ClosedError)

    @property
    def forked(self) -> bool:
        """Whether what it guards stayed behind in the parent process."""
        return isinstance(self._refusal, ForkError)

    def close(self) -> None:
        """Refuse new callers, and return once those inside have left. Do not call it from inside."""
        with self._changed:
            if self._refusal is None:
                self._refusal = ClosedError("this model was closed; load it again to use it")
            self._changed.wait_for(lambda: self._callers == 0)

    def after_fork(self) -> None:
        """In a forked child: the parent's other threads are not there, nor is its GPU."""
        self._renew()
        if not self._survives_fork and self._refusal is None:
            self._refusal = ForkError(
                "this process was forked from one that had the model on a GPU, which CUDA does not allow; load the "
                "model in the child, or start it with multiprocessing's 'spawn' or 'forkserver'"
            )


class Forkable(Protocol):
    """What has locks and devices to see to after a fork."""

    def after_fork(self) -> None:
        """Make it usable in the child, or refuse to be used; called before anything else runs there."""


_alive: weakref.WeakSet[Forkable] = weakref.WeakSet()


def watch_forks(subject: Forkable) -> None:
    """Have ``subject.after_fork()`` called in every child forked while it is alive."""
    _alive.add(subject)


def _after_fork() -> None:
    for subject in list(_alive):
        subject.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
