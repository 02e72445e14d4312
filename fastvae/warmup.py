"""Doing beforehand what the first calls of a model would do: building plans, compiling kernels, recording graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from fastvae import noise
from fastvae.errors import InputError
from fastvae.plan import DECODERS
from fastvae.runtime import Engine
from fastvae.runtime.graphs import GraphExecutor
from fastvae.runtime.memory import in_batches

T = TypeVar("T")

# The plans that each verb runs.
PLANS = {
    "generate": ("generate",),
    "encode": ("encode",),
    "embed": ("embed",),
    "decode": ("decode",),
    "reconstruct": ("reconstruct",),
    "interpolate": ("embed", "decode"),
    "score": ("elbo", "kl", "distance"),
    "generate_uint8": ("generate_uint8",),
    "decode_uint8": ("decode_uint8",),
    "reconstruct_uint8": ("reconstruct_uint8",),
    "impute": ("encode", "impute", "score", "parameters"),
}
# Those of scores where the divergence from the prior has no closed form.
OPEN_SCORES = ("encode", "score", "distance")
# Those whose latents are the caller's, scaled if they are asked for.
WITH_LATENTS = ("encode", "embed", "decode", "decode_uint8", "interpolate")


def warm_up(engine: Engine, batch_sizes: Sequence[int], verbs: Sequence[str]) -> None:
    """Run the plans of ``verbs`` on zeros, for each number of rows in ``batch_sizes``.

    Raises:
        InputError: no such verb, a size below 1, or either no sequence.
    """
    sizes = {noise.check_count("batch_sizes", size, least=1) for size in _several("batch_sizes", batch_sizes)}
    verbs = _several("verbs", verbs)
    for verb in verbs:
        if not isinstance(verb, str) or verb not in PLANS:
            raise InputError(f"verbs: expected some of {', '.join(map(repr, PLANS))}, got {verb!r}")
    of_verb = PLANS if engine.spec.prior is None else PLANS | {"score": OPEN_SCORES}
    plans = dict.fromkeys(
        engine.for_caller(plan) if verb in WITH_LATENTS else plan for verb in verbs for plan in of_verb[verb]
    )
    for size in sorted(sizes, reverse=True):  # the largest first: the other graphs find room in its memory
        for plan in plans:
            _run_on_zeros(engine, plan, size)


def _run_on_zeros(engine: Engine, verb: str, rows: int) -> None:
    """Run ``verb`` on a batch of ``rows`` rows of zeros, or of as many as are run at once.

    Whatever is compiled, loaded or recorded for it is from then on.
    """

    def size() -> int:
        return engine.batches.rows(verb)

    def run(low: int, high: int) -> None:
        executor = engine.executors.of(DECODERS.get(verb, verb))
        if isinstance(executor, GraphExecutor) and not engine.batch_invariant:
            executor.prepare(high - low)
        zeros = _zeros(engine, verb, high - low)
        if verb in DECODERS:
            engine.generate(high - low, seed=0, start=0, condition=zeros.get("condition"), verb=verb)
        else:
            engine.runner.run(verb, high - low, zeros)

    in_batches(engine.batches, [verb], 0, min(rows, size()), size, run)


def _zeros(engine: Engine, verb: str, rows: int) -> dict[str, Tensor]:
    """Inputs for ``verb``'s plan: zeros, and a mask of which no entry is set."""
    plan = engine.executors.of(verb).plan
    types = {name: torch.bool if name == "mask" else engine.dtype for name in plan.inputs}
    return {
        name: torch.zeros(rows, *plan.shapes[name], dtype=dtype, device=engine.device) for name, dtype in types.items()
    }


def _several(name: str, values: Iterable[T]) -> tuple[T, ...]:
    try:
        if isinstance(values, str):
            raise TypeError("text")
        return tuple(values)
    except TypeError as error:
        raise InputError(f"{name}: expected a sequence, got {values!r:.80}; put one value in a tuple") from error
