"""How far a job is: what the driver tells after every shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Event = Literal["start", "shard", "retry", "failed", "worker", "done"]


@dataclass(frozen=True)
class Progress:
    """The state of a job at an event.

    Args:
        event: ``start``; ``shard``, one is done; ``retry``, one failed and is tried again; ``failed``, for good;
            ``worker``, one died and is replaced; ``done``.
        samples, shards: on the disk by now, those of earlier runs included.
        n, of_shards: what they will be in the end.
        failed: shards given up.
        seconds: since the start of this run.
        rate: samples per second in this run; 0 before its first shard.
        eta: seconds that are left at this rate; None without one.
        message: what happened, where there is something to say.
    """

    event: Event
    samples: int
    n: int
    shards: int
    of_shards: int
    failed: int
    seconds: float
    rate: float
    eta: float | None
    message: str = ""


Watch: TypeAlias = Callable[[Progress], None]
