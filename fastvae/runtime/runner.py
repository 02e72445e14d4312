"""Running a verb's plan on the rows of one internal batch: at once, or tile by tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from fastvae.plan import NAN
from fastvae.runtime.batching import blocks, padded
from fastvae.runtime.compiled import CompiledExecutor
from fastvae.runtime.executor import Draw
from fastvae.runtime.executors import Executors
from fastvae.runtime.numerics import NARROW, Numerics
from fastvae.runtime.resolved import Resolved
from fastvae.runtime.resources import AnyExecutor

# Where a verb's outputs go: contiguous tensors of the engine's dtype, or None for new ones.
Out: TypeAlias = Sequence[Tensor] | None


class Runner:
    """Runs plans in the precision and mode asked for, and looks at what comes of it."""

    def __init__(self, executors: Executors, how: Resolved, numerics: Numerics) -> None:
        self._executors, self._how, self._numerics = executors, how, numerics

    def run(
        self,
        verb: str,
        rows: int,
        inputs: Mapping[str, Tensor | None],
        draw: Draw | None = None,
        out: Out = None,
    ) -> tuple[Tensor, ...]:
        """The verb's plan on all rows at once or, in batch-invariant mode, tile by tile; into ``out`` where given.

        Inputs that are None or that the plan does not read are left out. So are marks of rows that have a NaN, of the
        results: they are looked at here.
        """
        how, executor = self._how, self._executors.of(verb)
        given = {name: tensor for name, tensor in inputs.items() if tensor is not None and name in executor.plan.inputs}
        given = {name: tensor.to(how.dtype) if tensor.is_floating_point() else tensor for name, tensor in given.items()}
        marked = NAN in executor.plan.outputs
        if marked and out is not None:
            out = (*out, torch.empty(rows, dtype=torch.bool, device=how.device))
        with torch.no_grad():
            tiled = how.batch_invariant and not isinstance(executor, CompiledExecutor)
            results = _tiled(executor, rows, given, out) if tiled else executor(given, draw, out)
            if marked or how.precision in NARROW:
                self._numerics.look(verb, how.precision, given, results)
            return results[:-1] if marked else results

    def run_samples(self, verb: str, z: Tensor, inputs: Mapping[str, Tensor | None]) -> tuple[Tensor, ...]:
        """A verb whose ``z`` has several samples per row of the other inputs: each output (samples, rows, ...)."""
        samples, rows = z.shape[:2]
        if self._how.batch_invariant:
            results = [self.run(verb, rows, {**inputs, "z": latents}) for latents in z]
            return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        condition = inputs.get("condition")
        if condition is not None:
            condition = condition.expand(samples, *condition.shape).flatten(0, 1)
        flat = {**inputs, "z": z.flatten(0, 1), "condition": condition}
        outputs = self.run(verb, samples * rows, flat)
        return tuple(output.reshape(samples, rows, *output.shape[1:]) for output in outputs)


def _tiled(executor: AnyExecutor, rows: int, given: Mapping[str, Tensor], out: Out) -> tuple[Tensor, ...]:
    results = out
    size = executor.tile_rows
    for low, high in blocks(max(rows, 1), size):
        tile = {name: padded(tensor[low:high], size) for name, tensor in given.items()}
        if results is not None and low + size <= rows:
            executor(tile, None, [result[low:high] for result in results])
            continue
        parts = executor(tile)
        if results is None:
            results = [part.new_empty(rows, *part.shape[1:]) for part in parts]
        for result, part in zip(results, parts, strict=True):
            result[low:high] = part[: len(result) - low]
    return tuple(results or ())
