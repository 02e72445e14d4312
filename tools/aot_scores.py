"""The builds of the kernels that score counts, categories and heavy tails: rows' sums of many steps an entry."""

from __future__ import annotations

from collections.abc import Iterator

from fastvae_kernels.pieces import row_pieces
from fastvae_kernels.triton.gemm import row_unit
from fastvae_kernels.tuning import RowScoreConfig
from tools.aot_build import Build
from tools.aot_gemms import target_configs

__all__ = ["categorical_builds", "head_score_builds"]

BITS = {"fp32": 32, "bf16": 16}
# Likelihood, the data's dtype, columns, the two further parameters, and whether there is a mask and a row is shared.
HEADS = (
    ("negative_binomial", "fp32", 2000, "shared", "row", False, True),
    ("negative_binomial", "bf16", 784, "row", "none", True, False),
    ("poisson", "fp32", 784, "none", "row", True, False),
    ("poisson", "bf16", 101, "none", "none", False, False),
    ("student_t", "fp32", 784, "row", "shared", True, False),
    ("student_t", "bf16", 30, "scalar", "scalar", False, False),
)


def _configs(target: str) -> Iterator[tuple[str, RowScoreConfig]]:
    for device, config in target_configs("head_scores", target):
        assert isinstance(config, RowScoreConfig)
        yield device, config


def _promised(config: RowScoreConfig, dtype: str, unit: int) -> int:
    return config.load_bits * BITS[dtype] // 32 if unit == 8 else 0


def head_score_builds(target: str) -> Iterator[Build]:
    for device, config in _configs(target):
        for likelihood, dtype, dim, first, second, masked, shared in HEADS:
            cut, unit = row_pieces(dim, config), row_unit(dim)
            data = f"*{dtype}"
            yield Build(
                name=f"{device} {likelihood} {dtype} dim {dim} {first} {second}" + " mask" * masked,
                arguments={
                    **dict.fromkeys(("location", "x"), data),
                    "first": None if first == "none" else data,
                    "second": None if second == "none" else data,
                    "mask": "*u8" if masked else None,
                    "scores": "*fp32",
                    "partials": "*fp32" if shared else None,
                },
                constants={
                    "LIKELIHOOD": likelihood,
                    "FIRST": first,
                    "SECOND": second,
                    "UNIT": unit,
                    "BLOCK_ROWS": cut.block_rows,
                    "BLOCK_COLUMNS": cut.block_columns,
                },
                num_warps=config.num_warps,
                load_bits=_promised(config, dtype, unit),
                extra="" if dtype == "fp32" else "lighter",
            )


def categorical_builds(target: str) -> Iterator[Build]:
    for device, config in _configs(target):
        for dtype, k, masked in (("fp32", 784, True), ("bf16", 784, False), ("fp32", 7, True)):
            cut, unit = row_pieces(k, config), row_unit(k)
            yield Build(
                name=f"{device} {dtype} k {k}" + " mask" * masked,
                arguments={
                    **dict.fromkeys(("logits", "x"), f"*{dtype}"),
                    "mask": "*u8" if masked else None,
                    "scores": "*fp32",
                },
                constants={"UNIT": unit, "BLOCK_ROWS": cut.block_rows, "BLOCK_COLUMNS": cut.block_columns},
                num_warps=config.num_warps,
                load_bits=_promised(config, dtype, unit),
                extra="" if k > 7 and dtype == "fp32" else "lighter",
            )
