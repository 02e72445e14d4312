"""What tools/gpu_check.py measures of the ops on images: group norm and attention as in image autoencoders."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from gpu_timing import DRY, DTYPES, Work
from gpu_work import IMPL, Maker, normal
from torch import Tensor

import fastvae_kernels as k
from fastvae_kernels.cost import op_cost

__all__ = ["images"]

GROUPS = 4 if DRY else 32
CHECKED = 2 if DRY else 16
"""Rows of pixels whose queries the reference answers as well."""


def image(channels: int, side: int, precision: str) -> Tensor:
    """One square image, channels innermost."""
    x = normal(1, channels, side, side, dtype=DTYPES[precision])
    return x.contiguous(memory_format=torch.channels_last)


def norm_work(channels: int, side: int, precision: str) -> Work:
    """`group_norm` with SiLU against F.group_norm and F.silu."""
    x = image(channels, side, precision)
    weight, bias = normal(channels, dtype=x.dtype), normal(channels, dtype=x.dtype)

    def fused(impl: str = IMPL) -> Tensor:
        return k.group_norm(x, weight, bias, groups=GROUPS, activation="silu", impl=impl)

    cost = op_cost("group_norm", [x, weight, bias], [x])
    peers = {"eager": lambda: F.silu(F.group_norm(x, GROUPS, weight, bias))}
    shape = f"1x{channels}x{side}x{side}"
    return Work(
        "group_norm", shape, precision, fused, peers, lambda: [(fused(), fused("reference"))], cost.flops, cost.bytes
    )


def attention_work(channels: int, side: int, precision: str) -> Work:
    """`attention` with one head among all pixels of an image against F.scaled_dot_product_attention."""
    q, key, v = (image(channels, side, precision) for _ in range(3))
    heads = [x.flatten(2).mT[:, None] for x in (q, key, v)]

    def fused() -> Tensor:
        return k.attention(q, key, v, impl=IMPL)

    def check() -> list[tuple[Tensor, Tensor]]:
        y, parts = fused(), (slice(0, CHECKED), slice(side - CHECKED, side))
        return [(y[:, :, rows], k.attention(q[:, :, rows], key, v, impl="reference")) for rows in parts]

    cost = op_cost("attention", [q, key, v], [q])
    peers = {"eager": lambda: F.scaled_dot_product_attention(*heads)}
    shape = f"1x{channels}x{side}x{side}"
    return Work("attention", shape, precision, fused, peers, check, cost.flops, cost.bytes)


def images() -> Iterator[tuple[str, Maker]]:
    """Every measurement by name, the most telling first."""
    for channels, side in ((16, 4),) if DRY else ((128, 1024), (512, 128)):
        yield f"group_norm-{channels}-{side}", lambda c=channels, s=side: norm_work(c, s, "bf16")
    for side in (4,) if DRY else (64, 128):
        yield f"attention-512-{side}", lambda s=side: attention_work(512, s, "bf16")
