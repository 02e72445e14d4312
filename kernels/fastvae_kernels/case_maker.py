"""What cases are made of: tensors from a fixed seed, in any dtype."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Case", "Maker", "tf32"]

Case = Callable[[torch.dtype, torch.device], dict[str, Any]]
"""A function of dtype and device that gives keyword arguments of a public op."""


class Maker:
    """Normal tensors from a fixed seed."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(0)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale
        return values.to(self.device, self.dtype)

    def weight(self, outputs: int, inputs: int) -> Tensor:
        return self.normal(outputs, inputs, scale=max(inputs, 1) ** -0.5)

    def unit(self, *shape: int) -> Tensor:
        values = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return values.to(self.device, self.dtype)

    def mask(self, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=self.generator) < 0.7).to(self.device)


def tf32(dtype: torch.dtype) -> str:
    """The precision of a case that wants TF32, which only float32 has."""
    return "tf32" if dtype == torch.float32 else "ieee"
