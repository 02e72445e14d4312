"""The builds of the matrix-product kernels: every shipped tile with a heavy epilogue, and a few other variants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fastvae_kernels.parts import PARTS
from fastvae_kernels.tiling import GemmConfig, loads_single_entries, measured, measured_devices, shipped_tiles
from fastvae_kernels.triton.gemm import Operands
from fastvae_kernels.tuning import shipped_configs
from tools.aot_build import Build

__all__ = [
    "add_pieces_builds",
    "gemm_tiles",
    "linear_builds",
    "linear_prior_builds",
    "linear_score_builds",
    "target_configs",
    "target_of",
]

DTYPES = {"bf16": "bf16", "fp8": "fp8e4nv", "tf32": "fp32", "ieee": "fp32"}
ELEMENT_BITS = {"bf16": 16, "fp16": 16, "fp8e4nv": 8, "fp32": 32}
FALLBACK = "pointer form of a TMA tile, beyond the first"
LIGHTER = "float32 tile, and another holds more outputs a thread"


def target_of(device: str) -> str:
    """The architecture of the device that tools/tune.py measured under this name."""
    for part in PARTS.values():
        if any(model in device for model in part.name.split(", ")):
            return part.target
    raise ValueError(f"configs name the device {device!r}, but no part in fastvae_kernels/parts.py is named in it")


def target_configs(op: str, target: str) -> Iterator[tuple[str, Any]]:
    """The configurations of an elementwise op that `target` may be launched with, by the name they are filed under."""
    configs = shipped_configs(op)
    hip = not target.startswith("sm_")
    for device, config in configs.items():
        if device == "hip" and hip:
            yield device, config
        elif device == "default":
            if not (hip and "hip" in configs):
                yield device, config
        elif device != "hip" and target_of(device) == target:
            yield device, config


def gemm_tiles(op: str, target: str) -> Iterator[tuple[str, GemmConfig]]:
    """Precision and tile of everything `op` may launch on a target: shipped lists, then what was measured."""
    found = [(precision, tile) for precision, tiles in shipped_tiles(op, target).items() for tile in tiles]
    for device in measured_devices(op):
        if target_of(device) == target:
            found += [(row.precision, row.config) for row in measured(op, device)]
    # Configurations that differ in the order of tiles only are one and the same to a compiler.
    yield from dict.fromkeys((precision, replace(tile, group_rows=8)) for precision, tile in found)


def sources(op: str, target: str) -> Iterator[tuple[str, GemmConfig, str, str]]:
    """Precision, tile, SOURCE and why it is an extra: both forms of a TMA tile where the target has one."""
    fallback = first_tile(op, target, "bf16")
    for precision, tile in gemm_tiles(op, target):
        lighter = why_extra(op, target, precision, tile)
        tma = tile.tma and PARTS[target].has_tma
        if tma:
            yield precision, tile, "tma", lighter
        first = precision == "bf16" and tile == fallback
        yield precision, tile, "memory", lighter or ("" if first or not tma else FALLBACK)


def per_thread(tile: GemmConfig) -> int:
    """Outputs that a thread of warps of 32 holds."""
    return tile.block_rows * tile.block_columns // (32 * tile.num_warps)


def is_heaviest(op: str, target: str, precision: str, tile: GemmConfig) -> bool:
    """Whether no tile of that precision has a thread hold more outputs; of several the first."""
    return tile == max((each for own, each in gemm_tiles(op, target) if own == precision), key=per_thread)


def why_extra(op: str, target: str, precision: str, tile: GemmConfig) -> str:
    """Why a tile is compiled with --all only, if so: of float32, every day brings the heaviest."""
    return "" if precision in ("bf16", "fp8") or is_heaviest(op, target, precision, tile) else LIGHTER


def label(tile: GemmConfig) -> str:
    """A tile in few characters: its shape, warps, stages and parts."""
    shape = "x".join(map(str, tile.tile))
    return f"{shape} w{tile.num_warps} s{tile.num_stages}" + (f" p{tile.parts}" if tile.parts > 1 else "")


def promised(target: str, dtype: str, tile: GemmConfig, source: str, unit: int) -> tuple[int, int]:
    """Widths of loads and stores of aligned operands: 128 bits, or what each thread has of the smaller operand."""
    if source == "tma" or unit < 8:
        return 0, 0
    rows = tile.block_columns if source == "prior" else min(tile.block_columns, tile.block_rows)
    each = rows * tile.block_inputs // (32 * tile.num_warps) * ELEMENT_BITS[dtype]
    # AMD's matrix units leave four neighbours of a row in a thread.
    stores = 64 if target == "gfx942" and dtype != "fp32" else 128
    return min(each, 128), stores


def product_build(
    target: str, precision: str, tile: GemmConfig, source: str, variant: str = "", **changes: Any
) -> Build:
    """What the builds of all product kernels share: operands x and weight, bias, gelu, and no 16-byte assumption less.

    changes: unit, dtype, activation, and extra.
    """
    dtype = changes.get("dtype", DTYPES[precision])
    unit = changes.get("unit", 16 if dtype == "fp8e4nv" else 8)
    wide_dtype = "bf16" if dtype == "fp8e4nv" else dtype
    rows, columns, inputs = tile.tile
    descriptors = {"x": f"tensordesc<{dtype}[{rows},{inputs}]>", "weight": f"tensordesc<{dtype}[{columns},{inputs}]>"}
    pointers: dict[str, str | None] = {"x": None if source == "prior" else f"*{dtype}", "weight": f"*{dtype}"}
    scale = "*fp32" if dtype == "fp8e4nv" else None
    operands = Operands(
        unit=unit,
        even=False,
        precision=precision if precision == "tf32" else "ieee",
        promote=min(inputs, 128) if dtype == "fp8e4nv" else 0,
        widen=False,
    )
    activation = changes.get("activation", "gelu")
    load_bits, store_bits = promised(target, dtype, tile, source, unit)
    unaligned = "" if unit >= 8 else " unaligned"
    return Build(
        name=f"{dtype if precision == 'bf16' else precision} {label(tile)} {source} {activation}{unaligned}{variant}",
        arguments={
            **(descriptors if source == "tma" else pointers),
            "bias": f"*{wide_dtype}",
            "x_scale": scale,
            "weight_scale": scale,
        },
        constants={
            "SOURCE": source,
            "ACTIVATION": activation,
            "FAST": dtype != "fp32",
            "OPERANDS": tuple(operands),
            "TILE": tile.tile,
            "PARTS": tile.parts,
        },
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        matrix="" if precision == "ieee" else precision,
        bulk=source == "tma",
        impossible="" if precision in PARTS[target].flops else f"no {precision} on this target",
        extra=changes.get("extra", ""),
        load_bits=load_bits,
        store_bits=store_bits,
    )


def linear_build(target: str, precision: str, tile: GemmConfig, source: str, **changes: Any) -> Build:
    """One build of linear_kernel; changes as of `product_build`, and residual, a bool."""
    residual = changes.pop("residual", False)
    build = product_build(target, precision, tile, source, " residual" if residual else "", **changes)
    out = str(build.arguments["bias"])
    if source == "tma":
        out_type = f"tensordesc<{out[1:]}[{tile.block_rows},{tile.block_columns // tile.parts}]>"
    else:
        out_type = out
    arguments = {"residual": out if residual else None, "out": out_type}
    constants = {
        "OUTPUT_UNIT": min(changes.get("unit", 8), 8),
        "GROUP_ROWS": tile.group_rows,
        "PERSISTENT": source == "tma",
    }
    return replace(build, arguments=build.arguments | arguments, constants=build.constants | constants)


def first_tile(op: str, target: str, precision: str) -> GemmConfig:
    """The first tile that gemm_tiles gives of a precision."""
    return next(tile for each, tile in gemm_tiles(op, target) if each == precision)


def linear_builds(target: str) -> Iterator[Build]:
    """GELU and a residual, which need most, for the tile with most outputs a thread; SiLU elsewhere."""
    for precision, tile, source, extra in sources("linear", target):
        heavy = is_heaviest("linear", target, precision, tile)
        activation = "gelu" if heavy else "silu"
        yield linear_build(target, precision, tile, source, activation=activation, residual=heavy, extra=extra)
    tile = first_tile("linear", target, "bf16")
    source = "tma" if tile.tma and PARTS[target].has_tma else "memory"
    yield linear_build(target, "bf16", tile, source, activation="tanh", dtype="fp16", extra="another dtype")
    yield linear_build(target, "bf16", tile, source, activation="softplus", extra="another activation")
    for precision, each in gemm_tiles("linear", target):
        if precision == "bf16" and loads_single_entries(each, PARTS[target]):
            yield linear_build(target, "bf16", each, "memory", activation="relu", unit=1)


def linear_prior_builds(target: str) -> Iterator[Build]:
    # The loop draws, the epilogue is the one of `linear`: no register serves both.
    for precision, tile in gemm_tiles("linear_prior", target):
        extra = why_extra("linear_prior", target, precision, tile)
        yield linear_build(target, precision, tile, "prior", activation="relu", extra=extra)


def linear_score_build(target: str, precision: str, tile: GemmConfig, source: str, **changes: Any) -> Build:
    """One build of linear_score_kernel; changes as of `product_build`, and likelihood, mask, split."""
    likelihood, mask = changes.pop("likelihood", "bernoulli"), changes.pop("mask", False)
    split = changes.pop("split", False)
    variant = f" {likelihood}" + " mask" * mask + " split" * split
    build = product_build(target, precision, tile, source, variant, activation="identity", **changes)
    arguments = {
        "data": build.arguments["bias"],
        "logvar": build.arguments["bias"] if likelihood == "gaussian" else None,
        "mask": "*u8" if mask else None,
        "out": "*fp32",
    }
    constants = {"LIKELIHOOD": likelihood, "DATA_UNIT": 8, "SPLIT": split}
    return replace(build, arguments=build.arguments | arguments, constants=build.constants | constants, store_bits=0)


def linear_score_builds(target: str) -> Iterator[Build]:
    for precision, tile, source, extra in sources("linear_score", target):
        yield linear_score_build(target, precision, tile, source, extra=extra)
    tile = first_tile("linear_score", target, "bf16")
    source = "tma" if tile.tma and PARTS[target].has_tma else "memory"
    yield linear_score_build(target, "bf16", tile, "memory", split=True, extra="each tile its own program")
    yield linear_score_build(target, "bf16", tile, source, likelihood="gaussian", mask=True)


def add_pieces_builds(target: str) -> Iterator[Build]:
    yield Build(
        name="256 rows", arguments={"pieces_of": "*fp32", "out": "*fp32"}, constants={"BLOCK": 256}, num_warps=4
    )
