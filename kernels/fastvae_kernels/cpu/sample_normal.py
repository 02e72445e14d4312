"""`sample_normal` and `sample_uniform` on CPUs: the compiled library's, threads where there is enough to draw."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .library import library, threads_for

__all__ = ["fill_normal", "sample_normal", "sample_uniform"]

# Fewer numbers than this take less time than waking a thread may.
_NUMBERS_PER_THREAD = 32768


def fill_normal(out: NDArray[np.float32], seed: int, start: int, stream: int) -> None:
    """Standard normals into an array [n, dim] without gaps: `sample_normal` for callers that count microseconds.

    Arguments are not checked, and the compiled library must be there.
    """
    if out.size:
        threads = threads_for(out.size, _NUMBERS_PER_THREAD)
        library().fastvae_noise(out.ctypes.data, 1, *out.shape, seed, start, stream, False, False, threads)


def _sample(
    uniform: bool, n: int, dim: int, seed: int, start: int, stream: int, samples: int | None, dtype: torch.dtype
) -> Tensor:
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    out = torch.empty((n, dim) if samples is None else (samples, n, dim), dtype=exact, device="cpu")
    if count := out.numel():
        shape = 1 if samples is None else samples, n, dim
        key = seed % 2**64, start, stream
        threads = threads_for(count, _NUMBERS_PER_THREAD)
        library().fastvae_noise(out.data_ptr(), *shape, *key, uniform, exact == torch.float64, threads)
    return out if dtype == exact else out.to(dtype)


def sample_normal(
    n: int,
    dim: int,
    seed: int,
    start: int,
    stream: int,
    samples: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Standard normals [n, dim], or [samples, n, dim]; `seed` counts modulo 2**64; `device` is the CPU."""
    return _sample(False, n, dim, seed, start, stream, samples, dtype)


def sample_uniform(
    n: int,
    dim: int,
    seed: int,
    start: int,
    stream: int,
    samples: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Uniforms in (0, 1), [n, dim] or [samples, n, dim]; `device` is the CPU."""
    return _sample(True, n, dim, seed, start, stream, samples, dtype)
