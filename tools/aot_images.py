"""The builds of the kernels on images: the three of group norm, and attention."""

from __future__ import annotations

from collections.abc import Iterator

from fastvae_kernels.triton.channel_statistics import tile_shape
from fastvae_kernels.tuning import NormConfig
from tools.aot_build import Build
from tools.aot_gemms import target_configs

__all__ = ["norm_affine_builds", "norm_apply_builds", "statistics_builds"]

BITS = {"fp32": 32, "bf16": 16}
ROWS = "images by rows, which the engine does not make"


def norm_builds(target: str) -> Iterator[tuple[str, NormConfig]]:
    for device, config in target_configs("group_norm", target):
        assert isinstance(config, NormConfig)
        yield device, config


def promised(config: NormConfig, dtype: str, unit: int) -> int:
    """The width of loads and stores: what a thread has of a tile, at most what the configuration says."""
    return min(config.load_bits, config.load_bits * BITS[dtype] // 16) if unit == 8 else 0


def statistics_builds(target: str) -> Iterator[Build]:
    for device, config in norm_builds(target):
        for dtype, channels, last in (
            ("bf16", 128, True),
            ("fp32", 512, True),
            ("bf16", 128, False),
            ("bf16", 3, True),
        ):
            pixels, width = tile_shape(channels, config)
            unit = 1 if last and channels == 3 else 8
            yield Build(
                name=f"{device} {dtype} {channels} channels{'' if last else ' by rows'}",
                arguments={"x": f"*{dtype}", "out": "*fp32"},
                constants={
                    "CHANNELS_LAST": last,
                    "UNIT": unit,
                    "NUMBERS": 3,
                    "BLOCK_PIXELS": min(pixels, config.min_block),
                    "BLOCK_CHANNELS": width,
                },
                num_warps=config.num_warps,
                load_bits=promised(config, dtype, unit),
                extra="" if last and channels > 3 else ROWS if not last else "unaligned",
            )


def norm_affine_builds(target: str) -> Iterator[Build]:
    for device, config in norm_builds(target):
        for channels in (4, 16):
            yield Build(
                name=f"{device} groups of {channels}",
                arguments={
                    **dict.fromkeys(("statistics", "out"), "*fp32"),
                    **dict.fromkeys(("weight", "bias"), "*bf16"),
                    "counts": None,
                },
                constants={
                    "NUMBERS": 3,
                    "BLOCKS": min(config.merge_elements // channels, config.max_blocks),
                    "GROUP": channels,
                },
                num_warps=config.num_warps,
                extra="" if channels == 4 else "other",
            )


def norm_apply_builds(target: str) -> Iterator[Build]:
    for device, config in norm_builds(target):
        for dtype, activation, last in (("bf16", "silu", True), ("fp32", "gelu", True), ("bf16", "silu", False)):
            pixels, width = tile_shape(128, config)
            yield Build(
                name=f"{device} {dtype} {activation}{'' if last else ' by rows'}",
                arguments={**dict.fromkeys(("x", "out"), f"*{dtype}"), "affine": "*fp32"},
                constants={
                    "CHANNELS_LAST": last,
                    "UNIT": 8,
                    "ACTIVATION": activation,
                    "FAST": dtype == "bf16",
                    "BLOCK_PIXELS": pixels,
                    "BLOCK_CHANNELS": width,
                },
                num_warps=config.num_warps,
                load_bits=promised(config, dtype, 8),
                store_bits=promised(config, dtype, 8),
                extra="" if last else ROWS,
            )
