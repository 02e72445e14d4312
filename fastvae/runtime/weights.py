"""One copy of each weight, however many plans read it."""

from __future__ import annotations

import torch
from torch import Tensor


class WeightStore:
    """Weights on the engine's device, each kept once.

    Plans derive weights of their own (folded, padded), and name them after their buffers, so names say nothing:
    two weights are one if their bits are. Calls must not overlap.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[torch.dtype, torch.Size], list[Tensor]] = {}

    @property
    def kept(self) -> list[Tensor]:
        """All of them."""
        return [weight for alike in self._kept.values() for weight in alike]

    def share(self, weight: Tensor) -> Tensor:
        """The tensor kept for these bits: ``weight``, contiguous, if there is none yet."""
        alike = self._kept.setdefault((weight.dtype, weight.shape), [])
        for kept in alike:
            if kept.data_ptr() == weight.data_ptr() or _same_bits(kept, weight):
                return kept
        alike.append(weight)
        return weight


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two contiguous tensors of one dtype, shape and device are alike to the sign of a zero or of a NaN."""
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
