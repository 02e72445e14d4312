"""The builds of the convolutions' kernel: every shipped tile, and for the heaviest all that its epilogue can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fastvae_kernels.parts import PARTS
from fastvae_kernels.tiling import GemmConfig, takes_broken_pixels
from fastvae_kernels.triton.gemm import Operands
from fastvae_kernels.triton.window import conv_axis, transposed_axis
from tools.aot_build import Build
from tools.aot_gemms import DTYPES, gemm_tiles, is_heaviest, label, promised, why_extra

__all__ = ["add_tiles_builds", "conv_score_builds", "convolution_builds"]

WINDOWS = {
    "3x3": (conv_axis(3, 1, 1, 1),) * 2,
    "4x4 stride 2": (conv_axis(4, 2, 1, 1),) * 2,
    "transposed 4x4 stride 2": (transposed_axis(4, 2, 1, 1),) * 2,
}
WITHIN = "steps over several taps, and those of single entries are compiled"
SPARE = "the heaviest tile's epilogue, and a heavier one is compiled"


def convolution_build(target: str, precision: str, tile: GemmConfig, window: str, **changes: Any) -> Build:
    """One build of the kernel; changes: dtype, unit (of the channels), even, activation, residual, block, extra."""
    dtype = changes.get("dtype", DTYPES[precision])
    unit, even, block = changes.get("unit", 8), changes.get("even", True), changes.get("block", 0)
    activation, residual = changes.get("activation", "silu"), changes.get("residual", False)
    loads, stores = promised(target, dtype, tile, "memory", unit)
    words = [" residual" * residual, f" block {block}" if block else "", "" if even else f" unit {unit}"]
    pointer = f"*{dtype}"
    return Build(
        name=f"{dtype} {label(tile)} {window} {activation}{''.join(words)}",
        arguments={
            **dict.fromkeys(("x", "weight", "bias", "out"), pointer),
            "residual": pointer if residual else None,
            "statistics": "*fp32" if block else None,
        },
        constants={
            "WINDOW": tuple(tuple(axis) for axis in WINDOWS[window]),
            "ACTIVATION": activation,
            "FAST": dtype != "fp32",
            "OPERANDS": tuple(Operands(unit, even, "ieee", 0, False)),
            "OUTPUT_UNIT": 8,
            "BLOCK": block,
            "TILE": tile.tile,
            "PARTS": tile.parts,
            "GROUP_ROWS": tile.group_rows,
        },
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        matrix="" if precision == "ieee" else precision,
        extra=changes.get("extra", ""),
        load_bits=loads,
        store_bits=stores,
    )


def convolution_builds(target: str) -> Iterator[Build]:
    """Statistics and a residual, which need most, for the tile with most outputs a thread; SiLU elsewhere."""
    for precision, tile in gemm_tiles("conv2d", target):
        lighter = why_extra("conv2d", target, precision, tile)

        def build(window: str, *, precision: str = precision, tile: GemmConfig = tile, **changes: Any) -> Build:
            return convolution_build(target, precision, tile, window, **changes)

        if is_heaviest("conv2d", target, precision, tile):
            yield build("3x3", activation="gelu", residual=True, block=128, extra=lighter)
            yield build("3x3", activation="gelu", residual=True, extra=lighter or SPARE)
            up = SPARE if precision == "ieee" else ""
            yield build("transposed 4x4 stride 2", residual=True, extra=up)
        else:
            yield build("3x3", extra=lighter or (SPARE if tile.block_columns == 16 else ""))
        yield build("3x3", unit=8, even=False, extra=WITHIN)
        if precision == "ieee" or takes_broken_pixels(tile, PARTS[target]):
            single = precision == "bf16" and tile.block_columns == 64
            yield build("4x4 stride 2", unit=1, even=False, activation="relu", extra="" if single else WITHIN)
        if tile.block_columns == 16:
            image = build("3x3", activation="identity")
            bytes_ = {**image.arguments, "out": "*u8"}
            yield replace(image, name=f"{image.name} bytes", arguments=bytes_, store_bits=0)


def conv_score_builds(target: str) -> Iterator[Build]:
    """The narrowest tile, which last convolutions have, and the heaviest."""
    tiles = [(precision, tile) for precision, tile in gemm_tiles("conv2d", target) if precision == "bf16"]
    narrow = next(each for each in tiles if each[1].block_columns == 16)
    heavy = next(each for each in tiles if is_heaviest("conv2d", target, *each))
    for (precision, tile), likelihood in ((narrow, "bernoulli"), (heavy, "gaussian")):
        build = convolution_build(target, precision, tile, "3x3", activation="identity")
        gaussian = likelihood == "gaussian"
        arguments: dict[str, str | None] = {
            **{name: build.arguments[name] for name in ("x", "weight", "bias")},
            "data": build.arguments["x"],
            "logvar": build.arguments["x"] if gaussian else None,
            "mask": "*u8" if gaussian else None,
            "out": "*fp32",
        }
        kept = ("WINDOW", "ACTIVATION", "FAST", "OPERANDS", "OUTPUT_UNIT", "TILE", "PARTS", "GROUP_ROWS")
        constants = {**{name: build.constants[name] for name in kept}, "LIKELIHOOD": likelihood}
        extra = "the heaviest tile, which no last convolution has" if gaussian else ""
        name = f"{build.name} {likelihood}"
        yield replace(build, name=name, arguments=arguments, constants=constants, extra=extra, store_bits=0)


def add_tiles_builds(target: str) -> Iterator[Build]:
    yield Build(
        name="1024 numbers",
        arguments={"tiles_of": "*fp32", "out": "*fp32"},
        constants={"BLOCK": 1024},
        num_warps=4,
        extra="a sum of a few numbers" if target != "sm_90" else "",
    )
