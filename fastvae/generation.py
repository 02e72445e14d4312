"""Samples of a model: the request checked, and any part of it computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastvae import noise
from fastvae.arrays import Array, check_kind, of_kind
from fastvae.errors import InputError
from fastvae.plan import PIXEL_VERBS, pixel_shape
from fastvae.runtime.batching import blocks
from fastvae.runtime.memory import in_batches
from fastvae.walk import Walker

# What samples come as: E[x|z], draws from p(x|z), and E[x|z] as the bytes of pixels.
OUTPUTS = ("mean", "sample", "uint8")


def check_generation(n: int, seed: int, start: int, output: str, kind: str) -> tuple[int, int, int]:
    """``n``, ``seed`` and ``start`` as ints.

    Raises:
        InputError: an argument out of range.
    """
    if not isinstance(output, str) or output not in OUTPUTS:
        raise InputError(f"output: expected {', '.join(map(repr, OUTPUTS))}, got {output!r}")
    check_kind(kind)
    return noise.check_count("n", n), noise.check_seed(seed), noise.check_count("start", start)


class Samples:
    """The samples that one call asks for; arguments as ``VAE.generate`` has them, checked but for ``condition``.

    Raises:
        InputError: ``condition`` of the wrong kind, shape or range.
    """

    def __init__(self, walker: Walker, n: int, seed: int, start: int, output: str, condition: Any, kind: str) -> None:
        self._walker, self._n, self._seed, self._start = walker, n, seed, start
        self._output, self._kind = output, kind
        self._verb = PIXEL_VERBS["generate"] if output == "uint8" else "generate"
        self._conditions = walker.conditions(condition, n, self._verb)

    def batches(self, size: int | None) -> Iterator[Array]:
        """All of them, ``size`` at a time; None takes the internal batch."""
        size = size or self._walker.engine.batches.rows(self._verb)
        return (self.rows(low, high) for low, high in blocks(self._n, size))

    def rows(self, low: int, high: int) -> Array:
        """Samples low to high; in host memory if they go there, ``kind`` numpy, in blocks."""
        engine = self._walker.engine

        def size() -> int:
            return engine.batches.rows(self._verb)

        with engine.in_use:
            overlapped = self._kind == "numpy" and engine.stages.overlaps(high - low, size())
            device = torch.device("cpu") if overlapped else engine.device
            pixels, shape = self._output == "uint8", engine.spec.input_shape
            shape = pixel_shape(shape) if pixels else shape
            result = self._walker.empty(high - low, *shape, device=device, pixels=pixels)
            with engine.stages.carrier(overlapped) as carrier:

                def compute(first: int, last: int) -> None:
                    out = None if overlapped else result[first - low : last - low]
                    carrier.store([self._block(first, last, out)], [result], first - low, last - low)

                in_batches(engine.batches, [self._verb], low, high, size, compute)
            return of_kind(result, self._kind)

    def _block(self, low: int, high: int, out: Tensor | None) -> Tensor:
        """Samples low to high of one internal batch; means in ``out``, where given."""
        engine, condition = self._walker.engine, self._conditions.block(low, high)
        where = {"seed": self._seed, "start": self._start + low}
        if self._output != "sample":
            return engine.generate(high - low, **where, condition=condition, out=out, verb=self._verb)
        z = engine.draws.for_samples(high - low, **where)
        return engine.head.sample(engine.parameters(z, condition), **where, stream=noise.LIKELIHOOD)
