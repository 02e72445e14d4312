"""Image autoencoders of tiny widths with random weights in every tensor, diffusers' and raw, saved in many ways."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import fastvae

# Relative, in float64, through some 30 layers.
BUDGET = 1e-10
LEVELS = re.compile(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(.+)")


def randomised(module: Any, seed: int = 0) -> Any:
    """The module in float64 with weights of sensible scale, those of norms around 1 and 0 instead of at them."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for name, parameter in module.named_parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.ndim > 1:
            values = values * 1.5 / np.sqrt(np.prod(parameter.shape[1:]))
        else:
            values = 0.3 * values + ("norm" in name and name.endswith("weight"))
        parameter.data = values
    return module


def autoencoder_kl(**config: Any) -> Any:
    from diffusers import AutoencoderKL

    levels = len(config["block_out_channels"])
    types = {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
    return randomised(AutoencoderKL(**types, **config))


def small_kl(**changes: Any) -> Any:
    """One that fits LDM's naming: norms of 32 groups."""
    config = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 32, "sample_size": 16}
    return autoencoder_kl(**(config | changes))


def autoencoder_tiny(**config: Any) -> Any:
    from diffusers import AutoencoderTiny

    return randomised(AutoencoderTiny(**config))


def saved_kl(folder: Path, **changes: Any) -> Path:
    """A folder with a small autoencoder; ``changes`` are made to its ``config.json``, None taking a field away."""
    small_kl().save_pretrained(folder)
    return with_config(folder, **changes)


def with_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return folder


def old_attention(weights: dict[str, Tensor], *, kernels: bool = False) -> dict[str, Tensor]:
    """``weights`` with attention's as they were called before, as 1x1 convolutions or not."""
    renamed = {}
    for name, weight in weights.items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if f".{new}." in name:
                name = name.replace(f".{new}.", f".{old}.")
                weight = weight[:, :, None, None] if kernels and weight.ndim == 2 else weight
        renamed[name] = weight.contiguous()
    return renamed


def to_ldm(weights: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """``weights`` under the names of the original code."""
    highest = max(int(match[3]) for match in map(LEVELS.fullmatch, weights) if match)
    return {prefix + _ldm_name(name, highest): _ldm_weight(name, weight) for name, weight in weights.items()}


def _ldm_name(name: str, highest: int) -> str:
    level = LEVELS.fullmatch(name)
    if level:
        side, way, number, rest = level.groups()
        index = int(number) if way == "down" else highest - int(number)
        rest = re.sub(r"resnets\.(\d+)\.", r"block.\1.", rest).replace("conv_shortcut", "nin_shortcut")
        rest = rest.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        return f"{side}.{way}.{index}.{rest}"
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
    for new, old in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        name = name.replace(f"attn_1.{new}.", f"attn_1.{old}.")
    return name


def _ldm_weight(name: str, weight: Tensor) -> Tensor:
    return weight[:, :, None, None].contiguous() if re.search(r"\.to_\w+(\.0)?\.weight", name) else weight.contiguous()


def images(channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, channels, height, width, generator=generator, dtype=torch.float64) * 2 - 1


def loaded(path: Path) -> fastvae.VAE:
    return fastvae.load(path, impl="reference", precision="float64")


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest magnitude."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


class Pooled(nn.Module):
    """A block of the raw networks: three convolutions, what is beside them, and perhaps what sees the whole image."""

    def __init__(self, fan_in: int, fan_out: int, pooled: bool) -> None:
        super().__init__()
        widths = [fan_in, fan_out, fan_out, fan_out]
        convs = [layer for i, o in pairwise(widths) for layer in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU())]
        self.conv = nn.Sequential(*convs[:-1])
        self.skip = nn.Identity() if fan_in == fan_out else nn.Conv2d(fan_in, fan_out, 1, bias=False)
        wide = 4 * fan_in
        parts = (
            nn.Conv2d(fan_in, wide, 1, bias=False),
            nn.GroupNorm(4, wide),
            nn.ReLU(),
            nn.Conv2d(wide, fan_in, 1, bias=False),
        )
        self.pool = nn.Sequential(*parts) if pooled else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + self.skip(x))


class Clamp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * torch.tanh(x / 3)


def conv(fan_in: int, fan_out: int, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(fan_in, fan_out, 3, padding=1, **settings)


def raw_networks(*, pooled: bool = False, early: bool = False) -> tuple[nn.Sequential, nn.Sequential]:
    """An encoder and a decoder as TAESD numbers them; ``early`` halves before the first block, as taesana does."""
    start = [conv(3, 4, stride=2), nn.ReLU(), conv(4, 6, stride=2), nn.ReLU()] if early else [conv(3, 6)]
    halves = [conv(6, 6, stride=2, bias=False), Pooled(6, 8, pooled), Pooled(8, 8, pooled)]
    encoder = nn.Sequential(*start, Pooled(6, 6, False), *halves, conv(8, 5))
    doubled = [nn.Upsample(scale_factor=2), conv(8, 7, bias=False), Pooled(7, 7, False)]
    more = [layer for _ in range(2) for layer in (nn.Upsample(scale_factor=2), conv(7, 7, bias=False))] if early else []
    decoder = nn.Sequential(
        Clamp(), conv(5, 8), nn.ReLU(), Pooled(8, 8, pooled), *doubled, *more, Pooled(7, 7, False), conv(7, 3)
    )
    return randomised(encoder), randomised(decoder, seed=1)


def saved_raw(folder: Path, networks: tuple[nn.Module, nn.Module], *, name: str = "tiny", suffix: str = ".pth") -> Path:
    for side, network in zip(("encoder", "decoder"), networks, strict=True):
        path = folder / f"{name}_{side}{suffix}"
        save_file(network.state_dict(), path) if suffix == ".safetensors" else torch.save(network.state_dict(), path)
    return folder
