"""What the noise ops mean, once more and independently: Philox and Box-Muller in Python integers and floats."""

import math
import struct
from typing import Any

import torch
from torch import Tensor

__all__ = ["oracle_normals", "oracle_uniforms", "philox"]


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 in Python integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (second >> 32) ^ c1 ^ k0,
            second & 0xFFFFFFFF,
            (first >> 32) ^ c3 ^ k1,
            first & 0xFFFFFFFF,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _float32(x: float) -> float:
    return float(struct.unpack("f", struct.pack("f", x))[0])


def _unit(word: int) -> float:
    return _float32(_float32(word) * 2.0**-32 + 2.0**-33)


def _cos_sin(b: int) -> tuple[float, float]:
    """cos and sin of 2 π b / 2**32."""
    quadrant, rest = divmod(b + 2**29, 2**30)
    x = (rest - 2**29) * (math.pi * 2.0**-31)
    c, s = math.cos(x), math.sin(x)
    return ((c, s), (-s, c), (-c, -s), (s, -c))[quadrant % 4]


def _normals(words: tuple[int, ...]) -> list[float]:
    values = []
    for a, b in (words[:2], words[2:]):
        radius = math.sqrt(-2 * math.log(_unit(a)))
        values += [radius * part for part in _cos_sin(b)]
    return values


def _uniforms(words: tuple[int, ...]) -> list[float]:
    return [min(_unit(word), 1 - 2.0**-24) for word in words]


def _noise(kind: Any, n: int, dim: int, seed: int, start: int, stream: int, samples: int | None) -> Tensor:
    key = (seed & 0xFFFFFFFF, seed >> 32)
    values = []
    for k in range(1 if samples is None else samples):
        for i in range(start, start + n):
            row = []
            for quad in range(-(-dim // 4)):
                row += kind(philox((i & 0xFFFFFFFF, i >> 32, quad, stream + k), key))
            values.append(row[:dim])
    out = torch.tensor(values, dtype=torch.float64)
    return out.view(n, dim) if samples is None else out.view(samples, n, dim)


def oracle_normals(
    n: int, dim: int, *, seed: int, start: int = 0, stream: int = 0, samples: int | None = None
) -> Tensor:
    """What `sample_normal` means, in Python integers and floats -> float64."""
    return _noise(_normals, n, dim, seed, start, stream, samples)


def oracle_uniforms(
    n: int, dim: int, *, seed: int, start: int = 0, stream: int = 0, samples: int | None = None
) -> Tensor:
    """What `sample_uniform` means, in Python integers and floats -> float64."""
    return _noise(_uniforms, n, dim, seed, start, stream, samples)
