"""Bytes of images that are computed in tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

import fastvae_kernels
from fastvae.plan import Plan, output_dtypes
from fastvae.runtime.executor import Draw
from fastvae.runtime.tiling import TiledExecutor


def pixel_bytes(plan: Plan, dtype: torch.dtype) -> int:
    """What making bytes of an image of numbers of ``dtype`` takes: the result, twice on its way, and a copy of them."""
    return math.prod(plan.shapes[plan.outputs[0]]) * (2 + max(4, dtype.itemsize))


class PixelExecutor:
    """A plan of bytes whose numbers come from tiles; one image after the other, as tiles are.

    Args:
        plan: the whole, for one size of images.
        means: what gives the numbers.
        impl: of `to_bytes`.
        scale, shift: what it takes besides.
    """

    rows_that_fit = 1
    tile_rows = 1

    def __init__(self, plan: Plan, means: TiledExecutor, impl: str, *, scale: float, shift: float) -> None:
        self.plan = plan
        self._means, self._impl, self._scale, self._shift = means, impl, scale, shift

    def __call__(
        self, inputs: Mapping[str, Tensor], draw: Draw | None = None, out: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """The plan's outputs for ``inputs``, each (rows, *shape of a row), written into ``out`` where given."""
        like = next(iter(inputs.values()))
        if out is None:
            dtypes = zip(self.plan.outputs, output_dtypes(self.plan, like.dtype), strict=True)
            out = [like.new_empty(len(like), *self.plan.shapes[name], dtype=dtype) for name, dtype in dtypes]
        for row in range(len(like)):
            (image,) = self._means({name: tensor[row : row + 1] for name, tensor in inputs.items()})
            found = fastvae_kernels.to_bytes(image, scale=self._scale, shift=self._shift, impl=self._impl)
            for result, part in zip(out, found, strict=True):
                result[row : row + 1] = part
        return tuple(out)
