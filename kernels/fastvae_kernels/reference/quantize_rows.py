"""Defines `quantize_rows`: rows as 8-bit floats, each with a scale of its own."""

import torch
from torch import Tensor

from .precision import accumulation_dtype

__all__ = ["quantize_rows"]

_LARGEST = torch.finfo(torch.float8_e4m3fn).max


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [n, k] -> q [n, k] in e4m3 and scale [n] in float32 with x ≈ q scale.

    scale = max |row| / 448, leaving out NaN, at least the smallest normal and at most the largest float32; 1 for
    a row of zeros. q = x / scale is correctly rounded and saturates at ±448, NaN staying NaN.
    """
    wide = x.to(accumulation_dtype(x.dtype)).contiguous()
    if x.shape[1] == 0:
        return x.new_empty(x.shape, dtype=torch.float8_e4m3fn), x.new_ones(x.shape[0], dtype=torch.float32)
    largest = wide.abs().nan_to_num(0.0, posinf=torch.inf).amax(1)
    limits = torch.finfo(torch.float32)
    scale = (largest / _LARGEST).clamp(limits.tiny, limits.max).to(torch.float32)
    scale = torch.where(largest == 0, 1.0, scale)
    q = (wide / scale[:, None]).clamp_(-_LARGEST, _LARGEST)
    return q.to(torch.float8_e4m3fn), scale
