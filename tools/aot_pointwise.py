"""The builds of the kernels that go over entries one by one: `affine`, `logvar` and `to_bytes`."""

from __future__ import annotations

from collections.abc import Iterator

from fastvae_kernels.triton.affine import tile_shape
from fastvae_kernels.tuning import PointwiseConfig
from tools.aot_build import Build
from tools.aot_gemms import target_configs

__all__ = ["affine_builds", "logvar_builds", "to_bytes_builds"]

BITS = {"fp32": 32, "bf16": 16}


def promised(config: PointwiseConfig, dtype: str) -> int:
    """The width of loads and stores: what a thread has of a tile, at most what the configuration says."""
    return min(config.load_bits, config.load_bits * BITS[dtype] // 16)


def pointwise_builds(target: str) -> Iterator[tuple[str, PointwiseConfig]]:
    for device, config in target_configs("pointwise", target):
        assert isinstance(config, PointwiseConfig)
        yield device, config


def affine_builds(target: str) -> Iterator[Build]:
    for device, config in pointwise_builds(target):
        for dtype, activation, columns in (("fp32", "sigmoid", 784), ("bf16", "gelu", 784), ("bf16", "silu", 7)):
            rows, width = tile_shape(columns, config)
            wide = promised(config, dtype) if columns % 8 == 0 else 0
            yield Build(
                name=f"{device} {dtype} {activation} {columns}",
                arguments={**dict.fromkeys(("x", "scale", "shift", "out"), f"*{dtype}")},
                constants={
                    "UNIT": 8 if columns % 8 == 0 else 1,
                    "ACTIVATION": activation,
                    "FAST": dtype == "bf16",
                    "BLOCK_ROWS": rows,
                    "BLOCK_COLUMNS": width,
                },
                num_warps=config.num_warps,
                store_bits=wide,
                extra="" if columns == 784 else "unaligned",
            )


def logvar_builds(target: str) -> Iterator[Build]:
    for device, config in pointwise_builds(target):
        for dtype, parametrization in (("fp32", "softplus_std"), ("bf16", "logvar"), ("fp32", "variance")):
            yield Build(
                name=f"{device} {dtype} {parametrization}",
                arguments=dict.fromkeys(("raw", "out"), f"*{dtype}"),
                constants={
                    "PARAMETRIZATION": parametrization,
                    "ADDS": True,
                    "UNIT": 8,
                    "BLOCK": config.block_elements,
                },
                num_warps=config.num_warps,
                load_bits=promised(config, dtype),
                store_bits=promised(config, dtype),
                extra="" if parametrization == "softplus_std" else "lighter",
            )


def to_bytes_builds(target: str) -> Iterator[Build]:
    """Rows in their own order, and images whose channels move inwards, which are read one by one."""
    for device, config in pointwise_builds(target):
        for dtype, turned in (("fp32", False), ("bf16", False), ("bf16", True)):
            rows, width = tile_shape(784, config)
            yield Build(
                name=f"{device} {dtype}{' turned' * turned}",
                arguments={"x": f"*{dtype}", **dict.fromkeys(("out", "nan"), "*u8")},
                constants={"UNIT": 8, "TURNED": turned, "BLOCK_ROWS": rows, "BLOCK_COLUMNS": width},
                num_warps=config.num_warps,
                load_bits=0 if turned else promised(config, dtype),
                extra="" if dtype == "fp32" else "lighter",
            )
