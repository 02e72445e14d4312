"""What tools/tune.py tries of attention and of group norms, and how it runs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

import fastvae_kernels
from fastvae_kernels.attention_tiling import AttentionConfig, attention_tiles
from fastvae_kernels.eager import EAGER
from fastvae_kernels.parts import Part
from fastvae_kernels.tiling import element_bytes
from fastvae_kernels.tuning import NormConfig, shipped_configs
from tools.tune_work import DTYPES, Subject, Work

__all__ = ["IMAGE_OPS", "attention_subject", "norm_subject"]

IMAGE_OPS = {"attention": ("bf16", "ieee"), "group_norm": ("bf16",)}
"""Each op and what it is measured in: the one configuration of group norms serves every dtype."""

GROUPS = 32
PIXELS = 64 * 64
"""Of attention: the latents of an image of 512 pixels in each direction."""
NORMS = ((128, 1024), (256, 512), (512, 128))
"""Channels and side of the images whose group norms are measured, one after the other: those of a decoder."""
STATISTICS = 12
"""Bytes of a channel's statistics over a block."""
STEP_SECONDS = 3e-7
"""What a step of attention waits for besides; an estimate, as is the next."""
SCORE_OPERATIONS = 12
"""Of float32 for each score: scaling, largest, exponential, sum, rounding."""


def attention_subject(channels: int, precision: str, part: Part, limit: int) -> Subject[AttentionConfig]:
    """Attention among PIXELS pixels with one head of so many channels, the most of one of the shipped tiles."""
    default = next(tile for tile in attention_tiles(part.target)[precision] if tile.channels == channels)
    predicted = partial(_attention_seconds, precision=precision, part=part)
    others = sorted(_attention_grid(channels, precision, part), key=predicted)

    def is_known(table: dict[str, Any], device: str) -> bool:
        return any(row["channels"] == channels for row in table.get(device, {}).get(precision, ()))

    def record(table: dict[str, Any], device: str, config: AttentionConfig) -> dict[str, Any]:
        lists = dict(table.get(device, {}))
        kept = [row for row in lists.get(precision, ()) if row["channels"] != channels]
        lists[precision] = sorted([*kept, asdict(config)], key=lambda row: int(row["channels"]))
        return {**table, device: lists}

    return Subject(
        name=f"attention of {channels} channels in {precision}",
        op="attention",
        candidates=[default, *[config for config in others if config != default][:limit]],
        predicted=lambda config: 1e6 * predicted(config),
        work=lambda small: _attention_work(channels, precision, (19, 17) if small else (64, PIXELS // 64)),
        is_known=is_known,
        record=record,
    )


def norm_subject(part: Part, limit: int) -> Subject[NormConfig]:
    """The group norms of NORMS, which have one configuration."""
    default = shipped_configs("group_norm")["default"]
    assert isinstance(default, NormConfig)
    others = sorted(_norm_grid(default), key=partial(_norm_seconds, part=part))
    return Subject(
        name="group_norm",
        op="group_norm",
        candidates=[default, *[config for config in others if config != default][:limit]],
        predicted=lambda config: 1e6 * _norm_seconds(config, part),
        work=lambda small: _norms_work(((64, 19), (96, 5)) if small else NORMS),
        is_known=lambda table, device: device in table,
        record=lambda table, device, config: {**table, device: asdict(config)},
    )


def _attention_grid(channels: int, precision: str, part: Part) -> Iterator[AttentionConfig]:
    """Tiles whose sums a program has registers for, and whose operands in flight fit the shared memory."""
    steps = {min(step, channels) for step in ((32, 64) if precision == "ieee" else (64, 128, channels))}
    values = [width for width in (64, 128, 256) if width <= channels]
    for queries, keys, step, width in product((32, 64, 128), (32, 64, 128), sorted(steps), values):
        for warps, stages in product((4, 8), (1, 2, 3)):
            config = AttentionConfig(channels, queries, keys, step, width, warps, stages)
            sums = queries * (width + keys) // (32 * warps)
            size = element_bytes(precision) * (queries * step + stages * keys * (step + width))
            if sums <= 192 and size <= part.shared_bytes:
                yield config


def _attention_seconds(config: AttentionConfig, precision: str, part: Part) -> float:
    """Each processor takes its programs one after the other; a step has products or fetches, then weights."""
    channels = config.channels
    queries, keys, step, width = config.tile(channels, channels)
    again = 0 if step >= channels else queries  # queries that are not held are fetched for every block of keys
    arithmetic = 2 * queries * keys * (channels + width) * part.processors / part.flops[precision]
    fetched = element_bytes(precision) * (keys * (channels + width) + again * channels)
    weights = SCORE_OPERATIONS * queries * keys * part.processors / part.flops["ieee"]
    each = max(arithmetic, fetched * part.processors / part.cache_bandwidth) + weights + STEP_SECONDS
    programs = -(-PIXELS // queries) * -(-channels // width)
    return -(-programs // part.processors) * -(-PIXELS // keys) * each


def _norm_grid(default: NormConfig) -> Iterator[NormConfig]:
    sizes = product((1024, 2048, 4096, 8192), (32, 64, 128), (512, 1024, 2048), (2, 4, 8))
    for elements, channels, blocks, warps in sizes:
        if 8 <= elements // (32 * warps) <= 64:
            yield replace(
                default, block_elements=elements, max_block_channels=channels, max_blocks=blocks, num_warps=warps
            )


def _norm_seconds(config: NormConfig, part: Part) -> float:
    """Three passes over each image, in whole rounds of programs, and the statistics there and back."""
    total = 0.0
    for channels, side in NORMS:
        programs = -(-channels * side * side // config.block_elements)
        rounds = -(-programs // part.processors) * part.processors
        blocks = min(config.max_blocks, side * side // config.min_block)
        moved = 3 * 2 * rounds * config.block_elements + 2 * STATISTICS * blocks * channels
        total += moved / part.copy_bandwidth
    return total


def _image(channels: int, height: int, width: int, precision: str) -> Tensor:
    """One of standard normals, channels innermost."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.randn(1, height, width, channels, device=device).to(DTYPES[precision]).permute(0, 3, 1, 2)


def _attention_work(channels: int, precision: str, size: tuple[int, int]) -> Work[AttentionConfig]:
    from fastvae_kernels.triton.attention import launch

    q, k, v = (_image(channels, *size, precision) for _ in range(3))
    rows = [x.flatten(2).mT for x in (q, k, v)]
    out = torch.empty_like(rows[0])

    def run(config: AttentionConfig) -> Tensor:
        launch(*rows, out, 1, config=config)
        return out.mT.unflatten(2, size)

    return Work(
        run,
        exact=lambda: fastvae_kernels.attention(q.double(), k.double(), v.double(), impl="reference"),
        eager=lambda: EAGER["attention"](q, k, v),
        bytes=4 * q.nbytes,
        library=lambda: fastvae_kernels.attention(q, k, v, impl="library"),
    )


def _norms_work(sizes: tuple[tuple[int, int], ...]) -> Work[NormConfig]:
    """Several group norms, one after the other; their results lie side by side, as one row of numbers."""
    from fastvae_kernels.triton.norm_apply import launch_group_norm

    images = [_image(channels, side, side, "bf16") for channels, side in sizes]
    result = torch.empty_like(_row(images))
    parts = result.split([x.numel() for x in images])
    outs = [part.view(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2) for part, x in zip(parts, images, strict=True)]
    settings: dict[str, Any] = {"groups": GROUPS, "eps": 1e-6}

    def run(config: NormConfig) -> Tensor:
        for x, out in zip(images, outs, strict=True):
            launch_group_norm(x, None, None, out, **settings, activation="silu", alpha=None, config=config)
        return result

    def exact() -> Tensor:
        wide = (x.double() for x in images)
        return _row([fastvae_kernels.group_norm(x, **settings, activation="silu", impl="reference") for x in wide])

    def eager() -> Tensor:
        return _row([EAGER["group_norm"](x, **settings, activation="silu") for x in images])

    return Work(run, exact, eager, bytes=2 * sum(x.nbytes for x in images))


def _row(images: list[Tensor]) -> Tensor:
    return torch.cat([x.permute(0, 2, 3, 1).flatten() for x in images])
