"""The precision rules every reference shares: which dtype accumulates, and float32 that means IEEE float32."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

__all__ = ["accumulation_dtype", "ieee_float32", "round_to_tf32"]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64; float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@contextmanager
def _without_tf32() -> Iterator[None]:
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(previous)


def ieee_float32(x: Tensor) -> AbstractContextManager[None]:
    """A context in which products of float32 CUDA tensors are not computed in TF32."""
    return _without_tf32() if x.is_cuda else nullcontext()


def round_to_tf32(x: Tensor) -> Tensor:
    """float32 `x` with 10 explicit mantissa bits: to nearest, ties to even; infinities and NaN as they are.

    In integers, so that every device rounds alike. A carry out of the mantissa steps to the next power of two.
    """
    bits = x.view(torch.int32)
    rounded = (bits + ((bits >> 13) & 1) + 0xFFF) & ~0x1FFF
    return torch.where(x.isfinite(), rounded.view(torch.float32), x)
