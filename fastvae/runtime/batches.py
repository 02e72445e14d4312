"""The internal batches of one engine's verbs: how many rows each has, and which of them go side by side."""

from __future__ import annotations

from collections.abc import Sequence

from fastvae.runtime.batching import even_part
from fastvae.runtime.executors import Executors
from fastvae.runtime.numerics import Numerics
from fastvae.runtime.ort import OnnxExecutor
from fastvae.runtime.resolved import Resolved
from fastvae.runtime.resources import Resources
from fastvae.runtime.side_by_side import SerialThreads


class Batches:
    """What :func:`fastvae.runtime.memory.in_batches` asks of an engine."""

    def __init__(self, executors: Executors, how: Resolved, held: Resources) -> None:
        self._executors, self._how, self._held = executors, how, held

    @property
    def looks(self) -> Numerics:
        """Around batches, whose results are then known to be finite."""
        return self._held.numerics

    def rows(self, verb: str) -> int:
        """Rows of one internal batch of ``verb``; of its own choice whole tiles in batch-invariant mode."""
        rows = self._how.batch_size
        if rows is None:
            executor = self._executors.of(verb)
            rows, tile = executor.rows_that_fit, executor.tile_rows
            rows = max(rows // tile, 1) * tile if self._how.batch_invariant else rows
        return min(rows, self._held.limits.get(verb, rows))

    def next_rows(self, rows: int, size: int) -> int:
        """How many of ``rows`` to take next where at most ``size`` are run at once.

        As many as can be where batches of that size are prepared or made of whole tiles, else parts of about one size.
        """
        prepared = self._how.batch_invariant or self._how.impl != "onnxruntime"
        return min(rows, size) if prepared else even_part(rows, size)

    def side_by_side(self, verbs: Sequence[str], rows: int, size: int) -> tuple[SerialThreads, int] | None:
        """What runs internal batches of all these verbs side by side, and how many of ``rows`` each has.

        None where they run one after the other.
        """
        if self._how.threads == 1:
            return None
        found = (self._executors.of(verb) for verb in verbs)
        beside = all(isinstance(executor, OnnxExecutor) and executor.side_by_side for executor in found)
        return self._how.sharing.of(rows, size) if beside else None

    def limit_rows(self, verb: str, rows: int) -> None:
        """Give internal batches of ``verb`` at most ``rows`` rows from now on."""
        self._held.limits[verb] = rows
        self._held.direct.pop(verb, None)

    def release(self) -> None:
        """Give back what memory can be spared."""
        self._held.release()
