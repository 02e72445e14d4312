"""How many rows to run at once, and going on with fewer when they do not fit in memory.

Results do not change: blocks are cut anew from the same rows with the same noise, so without batch invariance only
rounding can differ, and with it nothing does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from fastvae.errors import FastVAEError, OutOfMemoryError
from fastvae.runtime.batching import blocks
from fastvae.runtime.side_by_side import SerialThreads

logger = logging.getLogger("fastvae")

# How PyTorch and its libraries say it where they raise a plain RuntimeError.
MESSAGES = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory, of the host or of a device, could not be had."""
    if isinstance(error, FastVAEError):
        return False
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


class Batched(Protocol):
    """What runs verbs in internal batches, and can make them smaller."""

    @property
    def looks(self) -> AbstractContextManager[object]:
        """Around batches: raises NumericsError at the end if one went beyond the range of the precision."""

    def rows(self, verb: str) -> int:
        """Rows of one internal batch of ``verb``."""

    def next_rows(self, rows: int, size: int) -> int:
        """How many of ``rows`` to take next where at most ``size`` are run at once."""

    def side_by_side(self, verbs: Sequence[str], rows: int, size: int) -> tuple[SerialThreads, int] | None:
        """What runs internal batches of all these verbs side by side, and how many of ``rows`` each has.

        None where they run one after the other.
        """

    def limit_rows(self, verb: str, rows: int) -> None:
        """Give internal batches of ``verb`` at most ``rows`` rows from now on."""

    def release(self) -> None:
        """Give back what memory can be spared."""


def in_batches(
    batches: Batched,
    verbs: Sequence[str],
    low: int,
    high: int,
    size: Callable[[], int],
    compute: Callable[[int, int], None],
) -> None:
    """``compute(first, last)`` on consecutive ranges of at most ``size()`` rows that cover ``low`` to ``high``.

    A range that runs out of memory is computed again in smaller ones, the batches of ``verbs`` halved for good;
    ``compute`` must allow that, and ``size`` depend on them.

    Raises:
        OutOfMemoryError: batches of one row do not fit either.
        NumericsError: results went beyond the range of the precision.
    """
    with batches.looks:
        left = [(low, high)]
        if (found := batches.side_by_side(verbs, high - low, size())) is not None:
            threads, rows = found
            left = threads.run(lambda first, last: _fits(compute, first, last), blocks(high, rows, low))
        for first, last in left:
            _one_by_one(batches, verbs, first, last, size, compute)


def _one_by_one(
    batches: Batched,
    verbs: Sequence[str],
    low: int,
    high: int,
    size: Callable[[], int],
    compute: Callable[[int, int], None],
) -> None:
    while low < high:
        last = low + batches.next_rows(high - low, size())
        before = {verb: batches.rows(verb) for verb in verbs}
        if _fits(compute, low, last):
            low = last
            continue
        batches.release()
        _halve(batches, before)
        while size() >= last - low > 1:
            _halve(batches, {verb: batches.rows(verb) for verb in verbs})


def _halve(batches: Batched, before: Mapping[str, int]) -> None:
    """Halve the batches that failed, unless another thread has done so meanwhile."""
    if all(rows == 1 for rows in before.values()):
        raise OutOfMemoryError(
            f"{', '.join(before)}: not even one row fits in memory; close other models, load this one on "
            "another device or in a lower precision, or ask for fewer samples"
        )
    for verb, rows in before.items():
        fewer = max(1, rows // 2)
        if fewer < batches.rows(verb):
            batches.limit_rows(verb, fewer)
            logger.warning("out of memory: the internal batch of %s is now %d rows", verb, fewer)


def _fits(compute: Callable[[int, int], None], low: int, high: int) -> bool:
    """Whether ``compute`` had enough memory.

    The error is gone on return, and with it the frames whose tensors its traceback kept alive.
    """
    try:
        compute(low, high)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
