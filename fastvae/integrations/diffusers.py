"""A diffusers autoencoder whose ``encode`` and ``decode`` run in fastvae, with the calls and results it had before."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from fastvae.api import VAE
from fastvae.errors import InputError
from fastvae.files import needs
from fastvae.formats.diffusers import configured
from fastvae.model import check_model
from fastvae.runtime import Settings

with needs("diffusers", "autoencoders to accelerate", "diffusers"):
    from diffusers import AutoencoderKL, AutoencoderTiny
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
    from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
    from diffusers.models.modeling_outputs import AutoencoderKLOutput

PRECISIONS = {torch.float32: "ieee", torch.float64: "float64", torch.bfloat16: "bf16", torch.float16: "fp16"}
METHODS = ("encode", "decode")
CLASSES: tuple[Any, ...] = (AutoencoderKL, AutoencoderTiny)

# Of a device's memory, what enable_tiling() lets fastvae take.
TILING_SHARE = 0.25

logger = logging.getLogger("fastvae")


class Accelerated:
    """What :func:`accelerate` did to an autoencoder; ``with`` undoes it at the end.

    Attributes:
        module: the autoencoder, whose ``encode`` and ``decode`` are fastvae's now.
        vae: the model they run; while the autoencoder has tiling enabled, it runs with a max_memory.
    """

    def __init__(self, module: nn.Module, vae: VAE) -> None:
        self.module, self.vae = module, vae
        self._tiled: VAE | None = None
        self._originals = {name: getattr(module, name) for name in METHODS}
        replacements: tuple[Any, Any] = (self._encode, self._decode)
        if isinstance(module, AutoencoderTiny):
            replacements = (self._encode_point, self._decode_point)
        for name, method in zip(METHODS, replacements, strict=True):
            setattr(module, name, method)

    def restore(self) -> None:
        """Give the autoencoder its own methods back, and free the memory fastvae took. May be called again."""
        for name in METHODS:
            if name in vars(self.module):
                delattr(self.module, name)
        self.vae.close()
        if self._tiled is not None:
            self._tiled.close()

    def _running(self) -> VAE:
        """The model, in bounded memory if that was asked for by diffusers' ``enable_tiling()``."""
        settings = self.vae._engine.settings
        if not getattr(self.module, "use_tiling", False) or settings.max_memory is not None:
            return self.vae
        if self._tiled is None:
            most = int(_memory(self.vae.device) * TILING_SHARE)
            self._tiled = VAE(self.vae._model, replace(settings, max_memory=most))
        return self._tiled

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def _encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """AutoencoderKL's: images (rows, channels, height, width) to the distribution of their latents."""
        if self._needs_gradients(x):
            return self._originals["encode"](x, return_dict)
        posterior = self._running().encode(x, invalid="propagate")
        distribution = DiagonalGaussianDistribution(torch.cat([posterior.mean, posterior.logvar], dim=1).to(x.dtype))
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def _decode(self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        """AutoencoderKL's: latents to images; ``generator`` is taken and, as there, not used."""
        if self._needs_gradients(z):
            return self._originals["decode"](z, return_dict, generator)
        return self._decoded(z, return_dict)

    def _encode_point(self, x: Tensor, return_dict: bool = True) -> Any:
        """AutoencoderTiny's: images to latents."""
        if self._needs_gradients(x):
            return self._originals["encode"](x, return_dict)
        latents = self._running().embed(x, invalid="propagate").to(x.dtype)
        return AutoencoderTinyOutput(latents=latents) if return_dict else (latents,)

    def _decode_point(self, x: Tensor, generator: torch.Generator | None = None, return_dict: bool = True) -> Any:
        """AutoencoderTiny's: latents to images."""
        if self._needs_gradients(x):
            return self._originals["decode"](x, generator, return_dict)
        return self._decoded(x, return_dict)

    def _decoded(self, z: Tensor, return_dict: bool) -> Any:
        sample = self._running().decode(z).to(z.dtype)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def _needs_gradients(self, x: Tensor) -> bool:
        """Whether a result for ``x`` is to be differentiated, of which fastvae knows nothing."""
        if not torch.is_grad_enabled():
            return False
        return x.requires_grad or (self.module.training and any(w.requires_grad for w in self.module.parameters()))


def accelerate(target: Any, **settings: Any) -> Accelerated:
    """Let a diffusers autoencoder encode and decode by fastvae; says what it replaced in the log, at level INFO.

    Calls and results stay as they were: ``latent_dist``, ``return_dict=False``, the module's dtype, images of any size
    that comes back from its latents. Weights are those the autoencoder has now. What is to be differentiated is left
    to the autoencoder itself. Slicing has nothing to do: rows run in batches that fit. After the autoencoder's
    ``enable_tiling()`` images that need more than ``max_memory``, by default a quarter of the device's memory, run in
    tiles with the result they have as a whole; its own sizes of tiles and their overlap are not used.

    Args:
        target: an AutoencoderKL or AutoencoderTiny, or a pipeline that has one as ``vae``.
        settings: of :func:`fastvae.load`, such as ``threads`` or ``impl``; device and precision are the module's.

    Raises:
        InputError: no such autoencoder, one that is accelerated already, or a setting that is unknown or would give
            other latents.
        UnsupportedError: a block or option of it that fastvae has no layer for.
    """
    module: Any = getattr(target, "vae", target)
    if not isinstance(module, CLASSES):
        found = type(module).__name__
        raise InputError(f"target: expected a diffusers AutoencoderKL or AutoencoderTiny, or a pipeline, got {found}")
    if any(name in vars(module) for name in METHODS):
        raise InputError("target: its encode and decode are replaced already; restore() them first")
    owner = type(module).__name__
    config = {**module.config, "_class_name": owner}
    weights = {name: weight.detach() for name, weight in module.state_dict().items()}
    model = check_model(configured(config, weights, Path(owner)), source=owner)
    if settings.get("scaled_latents"):
        raise InputError("settings: scaled_latents: latents stay as they were, diffusers' pipelines scale them")
    own = {"device": str(module.device), "precision": PRECISIONS.get(module.dtype, "auto")}
    try:
        chosen = Settings(**{**own, **settings})
    except TypeError as error:
        raise InputError(f"settings: {error}") from error
    accelerated = Accelerated(module, VAE(model, chosen))
    logger.info("%s: encode and decode now run in fastvae (%s)", owner, accelerated.vae)
    return accelerated


def _memory(device: torch.device) -> int:
    """Bytes of memory that the device, or for a CPU the machine, has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
