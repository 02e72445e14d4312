"""Walking over a caller's rows in internal batches, with the model's conditions and the policy for bad rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fastvae.arrays import Conditions, Rows, check_condition, check_rows, invalid_rows
from fastvae.errors import InputError, WeightFormatError
from fastvae.layers import Shape
from fastvae.runtime import Engine
from fastvae.runtime.memory import in_batches
from fastvae.spec import ModelSpec

# block, condition, index of its first row, where the results belong if known -> the results
Compute: TypeAlias = Callable[[Tensor, Tensor | None, int, Sequence[Tensor] | None], Sequence[Tensor]]


# Results of these dtypes lie in memory that is used again.
HOST_TYPES: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.uint8: np.dtype(np.uint8)}


class Walker:
    """Checks and walks the arguments of one engine's verbs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def other_size(self, name: str, x: Any, *, latent: bool = False) -> ModelSpec | None:
        """The spec for the size of images ``x``, or of latents; None if that is its own, or ``x`` has none.

        Raises:
            InputError: the model takes no images of that size.
        """
        spec = self.engine.spec
        if isinstance(x, Tensor) and (x.is_nested or x.layout != torch.strided):  # refused later, by its kind
            return None
        shape: tuple[int, ...] = tuple(getattr(x, "shape", ()))
        own = spec.latent_shape if latent else spec.input_shape
        if not spec.any_size or len(shape) != 4 or shape[1] != own[0] or shape[1:] == own:
            return None
        try:
            return spec.decoding(*shape[2:]) if latent else spec.resized(*shape[2:])
        except WeightFormatError as error:
            raise InputError(f"{name}: this model takes no images of {shape[2]}x{shape[3]} pixels: {error}") from error

    def rows(self, name: str, x: Any, *, invalid: str = "raise", missing: bool = False) -> Rows:
        """The data argument ``name``, checked; see :func:`fastvae.arrays.check_rows`."""
        engine = self.engine
        return check_rows(
            name,
            x,
            engine.spec.input_shape,
            device=engine.device,
            dtype=engine.dtype,
            supports=engine.head.supports,
            invalid=invalid,
            missing=missing,
        )

    def latents(self, name: str, z: Any) -> Rows:
        """The latent argument ``name``, checked."""
        shape, device = self.engine.spec.latent_shape, self.engine.device
        return check_rows(name, z, shape, device=device, dtype=self.engine.dtype, advice="")

    def conditions(self, condition: Any, rows: int, *verbs: str) -> Conditions:
        """The argument ``condition``, which may only be left out if none of the ``verbs``' plans reads it."""
        engine, spec = self.engine, self.engine.spec.condition
        if condition is None and not any(engine.is_conditional(verb) for verb in verbs):
            return Conditions(None)
        dim = None if spec is None else spec.dim
        return check_condition(condition, rows, dim, device=engine.device, dtype=engine.dtype)

    def empty(self, *shape: int, device: torch.device | None = None, pixels: bool = False) -> Tensor:
        """A result to fill, on ``device``, by default the engine's; of bytes for ``pixels``."""
        engine = self.engine
        device, dtype = device or engine.device, torch.uint8 if pixels else engine.how.output_dtype
        try:
            if device.type == "cpu" and dtype in HOST_TYPES:
                return torch.from_numpy(engine.results.empty(shape, HOST_TYPES[dtype]))
            return torch.empty(shape, dtype=dtype, device=device)
        except (RuntimeError, MemoryError, ValueError) as error:
            raise InputError(f"a result of shape {shape} does not fit in memory; use stream, or fewer rows") from error

    def walk(
        self,
        rows: Rows,
        compute: Compute,
        verbs: Sequence[str],
        shapes: Sequence[Shape],
        condition: Any = None,
        invalid: str = "raise",
        *,
        pixels: bool = False,
    ) -> list[Tensor]:
        """``compute`` over all rows, block by block, into results of ``shapes``.

        It gets a block, its condition, the index of its first row, and where its results belong: it may write there, or
        return others to be copied.
        ``verbs`` are those whose plans it runs: they decide the size of a block and whether a condition is needed.
        With ``invalid="mask"`` rows that hold NaN or Inf are computed as zeros and come back NaN. ``pixels`` says that
        results are bytes.
        """
        engine = self.engine
        conditions = self.conditions(condition, len(rows), *verbs)

        def size() -> int:
            return min(map(engine.batches.rows, verbs))

        overlapped = rows.on_host and engine.stages.overlaps(len(rows), size())
        device = torch.device("cpu") if overlapped else engine.device
        results = [self.empty(len(rows), *shape, device=device, pixels=pixels) for shape in shapes]
        with engine.stages.carrier(overlapped) as carrier:

            def compute_block(low: int, high: int) -> None:
                block = carrier.load(rows, low, high)
                bad = invalid_rows(block) if invalid == "mask" else None
                if bad is not None:
                    block = _fill(block, bad, 0.0)
                out = None if overlapped else [result[low:high] for result in results]
                parts = compute(block, conditions.block(low, high), low, out)
                if bad is not None:
                    parts = [_fill(part, bad, math.nan) for part in parts]
                carrier.store(parts, results, low, high)

            in_batches(engine.batches, verbs, 0, len(rows), size, compute_block)
        return results

    def map_one(
        self,
        rows: Rows,
        compute: Callable[[Tensor, Tensor | None, Tensor | None], Tensor],
        verb: str,
        shape: Shape,
        condition: Any = None,
        invalid: str = "raise",
        *,
        pixels: bool = False,
    ) -> Tensor:
        """:meth:`walk` for a computation with one result that does not depend on where a row stands."""

        def each(block: Tensor, vectors: Tensor | None, _: int, out: Sequence[Tensor] | None) -> tuple[Tensor]:
            return (compute(block, vectors, None if out is None else out[0]),)

        return self.walk(rows, each, [verb], [shape], condition, invalid, pixels=pixels)[0]


def _fill(block: Tensor, bad: Tensor, value: float) -> Tensor:
    """``block`` with ``value`` in every entry of the rows where ``bad`` (rows,) is True; no value reaches the host."""
    return block.masked_fill(bad.reshape(-1, *[1] * (block.ndim - 1)), value)
