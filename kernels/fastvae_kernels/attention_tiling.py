"""Tiles of attention: frozen lists in configs/attention.json, by architecture, precision and channels of a head.

They are those that tools/aot.py compiles without a spill and within the shared memory, chosen by estimate: keys and
values are fetched once for every block of queries, so that wide blocks of queries come first, then a second stage of
keys and values on their way. None has been measured. Under a device's name tools/tune.py writes those it measured
fastest, which then stand for the ones of as many channels in the architecture's list.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .parts import PARTS, part_of

__all__ = ["AttentionConfig", "attention_config", "attention_devices", "attention_tiles", "measured_attention"]


def _power_of_2(size: int) -> int:
    """The least power of two, from 16, which products need, that is no less than `size`."""
    return 1 << max(size - 1, 15).bit_length()


@dataclass(frozen=True)
class AttentionConfig:
    """How `attention` launches for heads of at most `channels` channels; in parts, for any number.

    A program has block_queries queries and block_values of the values' channels, and takes block_keys keys at a time,
    whose products with the queries it sums over block_channels channels at a time.
    """

    channels: int
    block_queries: int
    block_keys: int
    block_channels: int
    block_values: int
    num_warps: int
    num_stages: int

    def tile(self, channels: int, values: int) -> tuple[int, int, int, int]:
        """Queries, keys, channels and values of a step, for heads of so many channels and values."""
        channels, values = min(_power_of_2(channels), self.block_channels), min(_power_of_2(values), self.block_values)
        return self.block_queries, self.block_keys, channels, values


@cache
def _file() -> dict[str, Any]:
    path = Path(__file__).parent / "configs" / "attention.json"
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


@cache
def attention_tiles(target: str) -> dict[str, tuple[AttentionConfig, ...]]:
    """The tiles for an architecture by precision, in order of channels, those of "default" where it has no list."""
    return _lists({**_file()["default"], **_file().get(target, {})})


@cache
def measured_attention(device_name: str) -> dict[str, tuple[AttentionConfig, ...]]:
    """What tools/tune.py found on the device of this name, by precision: nothing, on most."""
    return _lists(_file().get(device_name, {}))


def attention_devices() -> tuple[str, ...]:
    """The devices on which tools/tune.py measured attention."""
    return tuple(name for name in _file() if name != "default" and name not in PARTS)


def _lists(table: dict[str, Any]) -> dict[str, tuple[AttentionConfig, ...]]:
    return {precision: tuple(AttentionConfig(**values) for values in tiles) for precision, tiles in table.items()}


@cache
def attention_config(channels: int, values: int, precision: str, device: torch.device) -> AttentionConfig:
    """The configuration for heads of so many channels and values: the first of as many as the larger of the two.

    precision: "ieee" or "bf16", the latter for both 16-bit dtypes. The last of a list serves any number. Odd numbers of
    16-bit entries come one by one through registers, of which only the first tile has enough.
    """
    tiles = attention_tiles(part_of(device).target)[precision]
    if precision == "bf16" and (channels % 2 or values % 2):
        return tiles[0]
    chosen = next((tile for tile in tiles if max(channels, values) <= tile.channels), tiles[-1])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    found = measured_attention(name).get(precision, ())
    return next((tile for tile in found if tile.channels == chosen.channels), chosen)
