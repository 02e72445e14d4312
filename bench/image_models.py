"""The image autoencoders that are measured, by diffusers, with random weights; and each verb as its users write it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastvae_kernels import sample_normal, sample_uniform

VERBS = ("decode", "encode")
SIZES = (256, 512)


@dataclass(frozen=True)
class ImageCase:
    """One verb of one autoencoder on so many square images of ``size`` pixels a side."""

    model: str
    verb: str
    size: int
    rows: int

    def __str__(self) -> str:
        return f"{self.model}-{self.verb}-{self.size}-{self.rows}"


def image_cases(
    models: Iterable[str], verbs: Iterable[str], sizes: Iterable[int], rows: Iterable[int]
) -> list[ImageCase]:
    """All of these; a model's small ones first, and those that share weights together."""
    verbs, sizes, rows = tuple(verbs), sorted(set(sizes)), sorted(set(rows))
    return [ImageCase(name, verb, size, n) for name in models for size in sizes for n in rows for verb in verbs]


def stable_diffusion(size: int) -> Any:
    """Stable Diffusion's AutoencoderKL for images of ``size``."""
    from diffusers import AutoencoderKL

    widths = (128, 256, 512, 512)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=size,
    )


def taesd(size: int) -> Any:
    """AutoencoderTiny as it comes; its images are of any size."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny()


IMAGE_MODELS: dict[str, Callable[[int], Any]] = {"sd": stable_diffusion, "taesd": taesd}


@functools.lru_cache(maxsize=1)
def autoencoder(name: str, size: int) -> Any:
    """The autoencoder called ``name``, one of IMAGE_MODELS, in evaluation mode.

    Weights are normal of variance 1 / fan-in. Those that diffusers begins with shrink what passes through a layer,
    until TAESD's images hardly depend on its latents, and comparing results would say little.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # biases are those that diffusers draws
        vae = IMAGE_MODELS[name](size).eval()
    for stream, parameter in enumerate(vae.parameters()):
        if parameter.ndim > 1:
            outputs, fan_in = parameter.flatten(1).shape
            values = sample_normal(outputs, fan_in, seed=0, stream=stream) / fan_in**0.5
            parameter.data = values.reshape(parameter.shape)
    return vae


class Decode(nn.Module):
    """Latents (n, c, h, w) -> images, as diffusers' pipelines decode them."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        result: Tensor = self.vae.decode(z).sample
        return result


class Encode(nn.Module):
    """Images -> posterior mean and log-variance, or the latents of an autoencoder without a posterior."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        encoded = self.vae.encode(x)
        if "latents" in encoded:
            latents: Tensor = encoded.latents
            return latents
        return encoded.latent_dist.mean, encoded.latent_dist.logvar


MODULES: dict[str, Callable[[Any], nn.Module]] = {"decode": Decode, "encode": Encode}


def image_module(case: ImageCase) -> nn.Module:
    """The verb over the case's autoencoder."""
    return MODULES[case.verb](autoencoder(case.model, case.size)).eval()


def image_input(case: ImageCase) -> Tensor:
    """What the verb takes: images uniform in [-1, 1], or standard normal latents."""
    vae = autoencoder(case.model, case.size)
    channels = vae.config.in_channels
    if case.verb == "encode":
        values = 2 * sample_uniform(case.rows, channels * case.size**2, seed=2) - 1
        return values.reshape(case.rows, channels, case.size, case.size)
    levels = len(vae.config.block_out_channels) - 1
    shape = vae.config.latent_channels, case.size >> levels, case.size >> levels
    return sample_normal(case.rows, torch.Size(shape).numel(), seed=1).reshape(case.rows, *shape)
