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
from tools.aot_gemms import DTYPES, gemm_tiles, is_heaviest, label, promised

__all__ = ["add_tiles_builds", "conv_score_builds", "convolution_builds"]

WINDOWS = {
    "3x3": (conv_axis(3, 1, 1, 1),) * 2,
    "4x4 stride 2": (conv_axis(4, 2, 1, 1),) * 2,
    "transposed 4x4 stride 2": (transposed_axis(4, 2, 1, 1),) * 2,
}
WITHIN = "steps over several taps, and those of single entries are compiled"
LIGHTER_EIGHT = "8-bit tile, and another holds more outputs a thread"
BYTES = "the same with bytes for a result is compiled"


def convolution_build(target: str, precision: str, tile: GemmConfig, window: str, **changes: Any) -> Build:
    """One build of the kernel; changes: dtype, unit (of the channels), even, activation, residual, block, extra."""
    dtype = changes.get("dtype", DTYPES[precision])
    eight_bits = precision == "fp8"
    unit, even, block = changes.get("unit", 16 if eight_bits else 8), changes.get("even", True), changes.get("block", 0)
    activation, residual = changes.get("activation", "silu"), changes.get("residual", False)
    loads, stores = promised(target, dtype, tile, "memory", unit)
    wide = "bf16" if eight_bits else dtype
    words = [" residual" * residual, f" block {block}" if block else "", "" if even else f" unit {unit}"]
    pointer, made = f"*{dtype}", f"*{wide}"
    return Build(
        name=f"{dtype} {label(tile)} {window} {activation}{''.join(words)}",
        arguments={
            **dict.fromkeys(("x", "weight"), pointer),
            **dict.fromkeys(("bias", "out"), made),
            "factors": "*fp32" if eight_bits else None,
            "residual": made if residual else None,
            "statistics": "*fp32" if block else None,
            "nan": None,
        },
        constants={
            "WINDOW": tuple(tuple(axis) for axis in WINDOWS[window]),
            "ACTIVATION": activation,
            "FAST": dtype != "fp32",
            "OPERANDS": tuple(Operands(unit, even, "ieee", min(tile.block_inputs, 128) if eight_bits else 0, False)),
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
        impossible="" if precision in PARTS[target].flops else f"no {precision} on this target",
    )


def convolution_builds(target: str) -> Iterator[Build]:
    """Statistics and a residual, which need most, for the tile with most outputs a thread; SiLU elsewhere."""
    for precision, tile in gemm_tiles("conv2d", target):

        def build(window: str, *, precision: str = precision, tile: GemmConfig = tile, **changes: Any) -> Build:
            return convolution_build(target, precision, tile, window, **changes)

        if is_heaviest("conv2d", target, precision, tile):
            yield build("3x3", activation="gelu", residual=True, block=128)
        if precision == "fp8":
            yield from _eight_bits(target, tile)
        if precision in ("ieee", "fp8"):
            continue
        if is_heaviest("conv2d", target, precision, tile):
            yield build("transposed 4x4 stride 2", residual=True)
        else:
            yield build("3x3", extra=BYTES if tile.block_columns == 16 else "")
        yield build("3x3", unit=8, even=False, extra=WITHIN)
        if takes_broken_pixels(tile, PARTS[target]):
            extra = "" if tile.block_columns == 64 else WITHIN
            yield build("4x4 stride 2", unit=1, even=False, activation="relu", extra=extra)
        if tile.block_columns == 16:
            image = build("3x3", activation="identity")
            bytes_ = {**image.arguments, "out": "*u8", "nan": "*u8"}
            yield replace(image, name=f"{image.name} bytes", arguments=bytes_, store_bits=0)


def _eight_bits(target: str, tile: GemmConfig) -> Iterator[Build]:
    """Lighter tiles with what image autoencoders ask for, and with channels that no step divides."""
    if not is_heaviest("conv2d", target, "fp8", tile):
        yield convolution_build(target, "fp8", tile, "3x3", residual=True, block=128, extra=LIGHTER_EIGHT)
        yield convolution_build(target, "fp8", tile, "3x3", even=False, extra=WITHIN)


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
