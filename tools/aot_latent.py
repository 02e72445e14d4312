"""The builds of the kernels around the latent: every shipped tile of `gaussian_head` and `bottleneck`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fastvae_kernels.tiling import GemmConfig
from fastvae_kernels.triton.bottleneck import latent_block
from tools.aot_build import Build
from tools.aot_gemms import gemm_tiles, label, product_build, why_extra

__all__ = ["bottleneck_builds", "gaussian_head_builds"]

LATENT = 32
MORE = "several latent blocks on a narrower tile"


def head_build(target: str, precision: str, tile: GemmConfig, block: int, variant: str, **changes: Any) -> Build:
    """What the two kernels share: x, the head's weights and biases, `block` latent columns, and a draw."""
    build = product_build(target, precision, replace(tile, block_columns=block), "memory", **changes)
    pointer = build.arguments["x"]
    operands: dict[str, str | None] = dict.fromkeys(
        ("x", "mean_weight", "logvar_weight", "mean_bias", "logvar_bias"), pointer
    )
    kept = ("OPERANDS", "TILE")
    return replace(
        build,
        name=f"{precision} {label(tile)} {variant}",
        arguments={**operands, "kl": "*fp32"},
        constants={**{name: build.constants[name] for name in kept}, "DRAW": True, "LATENT_UNIT": 8},
    )


def gaussian_head_builds(target: str) -> Iterator[Build]:
    for precision, tile in gemm_tiles("gaussian_head", target):
        extra = why_extra("gaussian_head", target, precision, tile)
        build = head_build(target, precision, tile, tile.block_columns, "posterior", extra=extra)
        outputs: dict[str, str | None] = dict.fromkeys(("z", "mean_out", "logvar_out"), build.arguments["x"])
        # Rows of a narrow tile are too short for every thread to store its widest.
        yield replace(build, arguments=build.arguments | outputs, store_bits=0)


def bottleneck_build(target: str, precision: str, tile: GemmConfig, one_block: bool, extra: str = "") -> Build:
    """One build of bottleneck_kernel: with all latent columns in one block, or a block at a time."""
    block = latent_block(LATENT, tile) if one_block else tile.block_latent
    variant = f"latent {block}" + ("" if one_block else " at a time")
    build = head_build(target, precision, tile, block, variant, extra=extra)
    pointer = build.arguments["x"]
    constants = {
        "ACTIVATION": "gelu",
        "FAST": precision == "bf16",
        "OUTPUT_UNIT": 8,
        "BLOCK_OUTPUTS": tile.block_columns,
        "PARTS": tile.parts,
        "ONE_BLOCK": one_block,
    }
    arguments: dict[str, str | None] = dict.fromkeys(("y", "weight", "bias"), pointer)
    return replace(build, arguments=build.arguments | arguments, constants=build.constants | constants)


def bottleneck_builds(target: str) -> Iterator[Build]:
    tiles = list(gemm_tiles("bottleneck", target))
    for precision, tile in tiles:
        extra = why_extra("bottleneck", target, precision, tile)
        yield bottleneck_build(target, precision, tile, True, extra)
        widest = max(each.block_columns for own, each in tiles if own == precision)
        yield bottleneck_build(target, precision, tile, False, extra or ("" if tile.block_columns == widest else MORE))
