"""What a peer is: a function from a case to a call, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Result: TypeAlias = Tensor | NDArray[np.float32] | tuple[Tensor | NDArray[np.float32], ...]
Call: TypeAlias = Callable[[], Any]


class AbsentError(Exception):
    """A peer cannot run a case; the message says why."""


@dataclass(frozen=True)
class Prepared:
    """A peer ready to run a case.

    Attributes:
        call: what is timed; returns a Result.
        check: the same computation on the case's own inputs, to be compared between peers. Another call than
            ``call`` only for ``generate``, whose noise differs from peer to peer.
    """

    call: Call
    check: Call


Peer: TypeAlias = Callable[[Any], Prepared]


def arrays(result: Result) -> list[NDArray[np.float32]]:
    """A peer's result as NumPy arrays."""
    parts = result if isinstance(result, tuple) else (result,)
    return [part.numpy() if isinstance(part, Tensor) else part for part in parts]
