"""Launch configurations: frozen data, looked up by op and device name in configs/*.json.

The defaults come from tools/aot.py, not from timings: four float32 numbers a thread, the most that keeps stores
128 bits wide. With eight, `reparameterize` of odd rows spills on sm_80 and sm_90. AMD's wavefronts have 64
threads, so there the same four need a tile twice as large.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "NormConfig",
    "PointwiseConfig",
    "QuantizeConfig",
    "ReparameterizeConfig",
    "RowScoreConfig",
    "SampleConfig",
    "config_for",
    "shipped_configs",
]


@dataclass(frozen=True)
class SampleConfig:
    """How `sample_normal` and `sample_uniform` launch.

    block_quads: counters, of four numbers each, a program draws. store_bits: the width of the widest store
    of float32 rows whose length is a multiple of 4, which tools/aot.py holds the compiled kernel to.
    """

    block_quads: int
    num_warps: int
    store_bits: int


@dataclass(frozen=True)
class ReparameterizeConfig:
    """How `reparameterize` launches.

    block_elements: entries of mean a program holds at a time. max_block_dims: the most of them in one row.
    samples_per_program: how many samples share one read of mean and logvar. store_bits: as in SampleConfig.
    """

    block_elements: int
    max_block_dims: int
    samples_per_program: int
    num_warps: int
    store_bits: int


@dataclass(frozen=True)
class QuantizeConfig:
    """How `quantize_rows` launches. block_elements: entries of x a program holds at a time, in rows of at most that."""

    block_elements: int
    num_warps: int


@dataclass(frozen=True)
class RowScoreConfig:
    """How the ops that sum scores over rows launch: "row_scores" the short ones, "head_scores" those of many steps.

    block_elements: entries a program holds at a time. max_block_rows, max_block_columns: the most rows and columns
    they are in. unroll: how many such blocks it reads before it needs the first; with four, some builds spill.
    max_pieces: the most pieces a row is cut into, and so the most programs that share one. min_shared_pieces: rows
    of fewer are not worth a second launch. programs_per_processor: what fills a device. These two are
    estimates. load_bits: the width of the widest load of rows whose length is a multiple of 8.
    """

    block_elements: int
    max_block_rows: int
    max_block_columns: int
    unroll: int
    max_pieces: int
    min_shared_pieces: int
    programs_per_processor: int
    num_warps: int
    load_bits: int


@dataclass(frozen=True)
class PointwiseConfig:
    """How `affine` and `logvar` launch.

    block_elements: entries a program holds. load_bits: the width of the widest load of float32 rows whose length is a
    multiple of 8.
    """

    block_elements: int
    num_warps: int
    load_bits: int


@dataclass(frozen=True)
class NormConfig:
    """How `channel_statistics`, `norm_affine` and `norm_apply` launch.

    block_elements: entries of an image a program holds at a time, of at most max_block_channels channels. max_blocks,
    min_block: `group_norm` cuts an image into blocks of at least min_block pixels, twice as many until there are at
    most max_blocks; estimates of what fills a device and of what one program merges in a moment. merge_elements:
    entries of statistics that a program holds at a time. load_bits: the width of the widest load of float32 channels
    whose number is a multiple of 8.
    """

    block_elements: int
    max_block_channels: int
    max_blocks: int
    min_block: int
    merge_elements: int
    num_warps: int
    load_bits: int


Config = SampleConfig | ReparameterizeConfig | QuantizeConfig | RowScoreConfig | NormConfig | PointwiseConfig
_TYPES: dict[str, type[Config]] = {
    "sample_normal": SampleConfig,
    "reparameterize": ReparameterizeConfig,
    "quantize_rows": QuantizeConfig,
    "row_scores": RowScoreConfig,
    "head_scores": RowScoreConfig,
    "group_norm": NormConfig,
    "pointwise": PointwiseConfig,
}


@cache
def shipped_configs(op: str) -> dict[str, Config]:
    """Every shipped configuration of `op` by device name; for all others "hip" on ROCm, else "default"."""
    path = Path(__file__).parent / "configs" / f"{op}.json"
    table: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return {device: _TYPES[op](**values) for device, values in table.items()}


def config_for(op: str, device: torch.device) -> Config:
    """The configuration of `op` measured on this device, or the default."""
    configs = shipped_configs(op)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    fallback = configs["default"] if torch.version.hip is None else configs.get("hip", configs["default"])
    return configs.get(name, fallback)
