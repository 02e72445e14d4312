"""The builds of the kernels on images: the three of group norm, and attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fastvae_kernels.attention_tiling import (
    AttentionConfig,
    attention_devices,
    attention_tiles,
    measured_attention,
)
from fastvae_kernels.parts import PARTS
from fastvae_kernels.triton.channel_statistics import tile_shape
from fastvae_kernels.triton.gemm import Operands
from fastvae_kernels.tuning import NormConfig
from tools.aot_build import Build
from tools.aot_gemms import target_configs, target_of

__all__ = ["attention_builds", "norm_affine_builds", "norm_apply_builds", "statistics_builds"]

BITS = {"fp32": 32, "bf16": 16}
ROWS = "images by rows, which the engine does not make"
LIKE = "an image kernel's variant, and its like is compiled"


def norm_builds(target: str) -> Iterator[tuple[str, NormConfig]]:
    for device, config in target_configs("group_norm", target):
        assert isinstance(config, NormConfig)
        yield device, config


def promised(config: NormConfig, dtype: str, unit: int) -> int:
    """The width of loads and stores: what a thread has of a tile, at most what the configuration says."""
    return min(config.load_bits, config.load_bits * BITS[dtype] // 16) if unit == 8 else 0


def statistics_builds(target: str) -> Iterator[Build]:
    variants = [("bf16", 128, True, 8), ("fp32", 512, True, 8), ("bf16", 3, True, 1), ("bf16", 128, False, 8)]
    for device, config in norm_builds(target):
        for dtype, channels, last, unit in [*variants, ("fp32", 128, False, 1)]:
            pixels, width = tile_shape(channels, config)
            yield Build(
                name=f"{device} {dtype} {channels} channels" + " by rows" * (not last) + " odd" * (unit == 1),
                arguments={"x": f"*{dtype}", "out": "*fp32"},
                constants={
                    "CHANNELS_LAST": last,
                    "UNIT": unit,
                    "NUMBERS": 3,
                    "BLOCK_PIXELS": min(pixels, config.min_block),
                    "BLOCK_CHANNELS": width if last or unit == 8 else width // 2,
                },
                num_warps=config.num_warps,
                load_bits=promised(config, dtype, unit),
                extra="" if (dtype, last, unit) == ("bf16", True, 8) else LIKE if last else ROWS,
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
                extra="" if channels == 4 else LIKE,
            )


def norm_apply_builds(target: str) -> Iterator[Build]:
    variants = [("bf16", "silu", True, ""), ("fp32", "gelu", True, LIKE), ("bf16", "silu", False, ROWS)]
    lacks = "" if "fp8" in PARTS[target].flops else "no float8_e4m3fn on this target"
    for device, config in norm_builds(target):
        pixels, width = tile_shape(128, config)
        for dtype, activation, last, extra in variants:
            build = Build(
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
                extra=extra,
            )
            yield build
            if not extra:
                eight = {**build.arguments, "out": "*fp8e4nv"}
                name, stored = f"{build.name} to e4m3", build.store_bits // 2
                yield replace(build, name=name, arguments=eight, store_bits=stored, impossible=lacks)


def attention_build(precision: str, config: AttentionConfig, channels: int, extra: str = "") -> Build:
    """Attention among heads of so many channels, with the tile of `config`."""
    dtype = "fp32" if precision == "ieee" else precision
    tile = config.tile(channels, channels)
    unit = 8 if channels % 8 == 0 else 1
    layout = Operands(unit=unit, even=channels == tile[2], precision="ieee", promote=0, widen=False)
    shape = "x".join(map(str, tile))
    return Build(
        name=f"{precision} {shape} w{config.num_warps} s{config.num_stages} {channels} channels",
        arguments=dict.fromkeys(("q", "k", "v", "out"), f"*{dtype}"),
        constants={
            "OPERANDS": tuple(layout),
            "VALUE_UNIT": unit,
            "FAST": dtype != "fp32",
            "WHOLE": channels <= tile[2],
            "TILE": tile,
        },
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        matrix="" if precision == "ieee" else precision,
        load_bits=128 if unit == 8 else 0,
        extra=extra,
    )


def attention_builds(target: str) -> Iterator[Build]:
    """The widest heads in 16 bits everywhere; besides, narrow ones on one target, and float32 where it is tightest."""
    daily = {("sm_90", "bf16", 64), ("sm_80", "ieee", 512)}
    for device in attention_devices():
        for precision, found in measured_attention(device).items() if target_of(device) == target else ():
            yield from (attention_build(precision, config, config.channels) for config in found)
    for precision, tiles in attention_tiles(target).items():
        for config in tiles:
            widest = precision == "bf16" and config is tiles[-1]
            kept = widest or (target, precision, config.channels) in daily
            yield attention_build(precision, config, config.channels, "" if kept else LIKE)
        yield attention_build(precision, tiles[0], 33, LIKE)
