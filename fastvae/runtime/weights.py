"""One copy of each weight, however many plans read it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastvae.plan import Plan


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

    def shared(self, plan: Plan) -> Plan:
        """The plan with the tensors that are kept for its weights' bits, each as it lies in memory."""
        return replace(plan, weights={name: self._shared(weight) for name, weight in plan.weights.items()})

    def _shared(self, weight: Tensor) -> Tensor:
        strides = weight.stride()
        order = sorted(range(weight.ndim), key=lambda axis: -strides[axis])
        kept = self.share(weight.permute(order).contiguous())
        return kept.permute([order.index(axis) for axis in range(weight.ndim)])


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two contiguous tensors of one dtype, shape and device are alike to the sign of a zero or of a NaN."""
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
