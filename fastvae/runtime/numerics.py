"""Noticing that a narrow precision was too narrow: results that are not finite, of rows that are.

Bytes show no NaN, so in any precision the marks that come with them are looked at.

A value beyond the range of float16 (65,504) becomes Inf, and soon NaN; bfloat16 has float32's range, so that there it
takes values that float32 barely holds. Neither ever turns into another finite value unless a function that saturates
makes it the right one (sigmoid, tanh, relu of minus infinity), so looking at results is enough. On a GPU a look is
noted on the device and read once at the end of a verb, which has to wait for its results anyway.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from fastvae.errors import NumericsError

# Precisions whose results are looked at, and the ones to go to instead.
NARROW = {"fp16": "precision='bf16' or 'ieee'", "bf16": "precision='ieee'", "fp8": "precision='ieee'"}

# Verbs whose second output is a log-variance: minus infinity is that of no variance at all.
WITH_LOGVAR = ("encode", "encode_scaled", "parameters")

# Verb, precision, and whether a result was not finite: a boolean on the device.
Look: TypeAlias = tuple[str, str, Tensor]


class Numerics:
    """The looks of one engine, by thread; leaving its context reads those that are still to be read."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __enter__(self) -> Numerics:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pending = self._taken()
        if kind is None:
            _raise_if_any(pending)

    def look(self, verb: str, precision: str, given: Mapping[str, Tensor], results: Sequence[Tensor]) -> None:
        """Note whether any of ``results`` is not finite in a row whose inputs are; a CPU's look is read at once.

        Raises:
            NumericsError: it is, on a CPU.
        """
        rows = max((len(result) for result in results), default=0)
        if not rows:
            return
        bad = torch.zeros(rows, dtype=torch.bool, device=results[0].device)
        for index, result in enumerate(results):
            if result.dtype == torch.uint8:
                continue
            fine = ~result if result.dtype == torch.bool else torch.isfinite(result)
            if index == 1 and verb in WITH_LOGVAR:
                fine |= result == -torch.inf
            bad |= ~fine.reshape(rows, -1).all(1)
        if self._at_once(bad.device) and not bool(bad.any()):
            return
        for tensor in given.values():
            if tensor.is_floating_point():  # of several draws for each row, the rows come again and again
                bad &= torch.isfinite(tensor).reshape(len(tensor), -1).all(1).repeat(rows // len(tensor))
        if self._at_once(bad.device):
            _raise_if_any([(verb, precision, bad.any())])
        else:
            self._local.pending = [*self._taken(), (verb, precision, bad.any())]

    @staticmethod
    def _at_once(device: torch.device) -> bool:
        """Whether reading a look does not keep the host waiting."""
        return device.type == "cpu"

    def _taken(self) -> list[Look]:
        """What this thread has noted, which is forgotten."""
        pending: list[Look] = getattr(self._local, "pending", [])
        self._local.pending = []
        return pending


def _raise_if_any(looks: Sequence[Look]) -> None:
    if not looks or not bool(torch.stack([flag for *_, flag in looks]).any()):
        return
    verb, precision = next((verb, precision) for verb, precision, flag in looks if flag)
    wider = NARROW.get(precision)
    advice = f"load the model with {wider}" if wider else "or a weight is NaN; its floats show where"
    raise NumericsError(
        f"{verb}: a result is not finite in precision {precision!r}, though its inputs are: a value inside of the "
        f"model is beyond its range; {advice}"
    )
