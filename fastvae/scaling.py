"""Latents as a diffusion model has them: the numbers by which it shifts and scales those of an autoencoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastvae.errors import WeightFormatError

# The numbers as diffusers' configs call them.
NUMBERS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")


@dataclass(frozen=True)
class LatentScaling:
    """How latents z and scaled latents s of an autoencoder belong together, in the numbers of diffusers' configs.

    s = (z - shift_factor) * scaling_factor; or, with one number for each channel of the latents in ``latents_mean``
    and ``latents_std``, s = (z - latents_mean) * scaling_factor / latents_std.

    Raises:
        WeightFormatError: numbers that are not finite, or a factor or deviation that is not positive; a mean for
            another number of channels than there are deviations; a shift besides means.
    """

    kind: ClassVar[str] = "latent_scaling"
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    latents_mean: tuple[float, ...] = ()
    latents_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in NUMBERS:
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            positive = name in ("scaling_factor", "latents_std")
            if not all(math.isfinite(number) and (number > 0 or not positive) for number in numbers):
                expected = "positive and finite" if positive else "finite"
                raise WeightFormatError(f"latent_scaling: {name} must be {expected}, got {value!r:.80}")
        if len(self.latents_mean) != len(self.latents_std):
            found = f"{len(self.latents_mean)} and {len(self.latents_std)}"
            raise WeightFormatError(f"latent_scaling: latents_mean and latents_std must be as many, got {found}")
        if self.latents_mean and self.shift_factor:
            raise WeightFormatError("latent_scaling: shift_factor and latents_mean are two ways to shift; give one")

    def check_channels(self, channels: int) -> None:
        """Refuse numbers for another number of channels.

        Raises:
            WeightFormatError: they are.
        """
        if self.latents_mean and len(self.latents_mean) != channels:
            found = len(self.latents_mean)
            raise WeightFormatError(f"latent_scaling: expected {channels} numbers in latents_mean, found {found}")

    def vectors(self, channels: int) -> tuple[list[float], list[float]]:
        """Offsets m and factors a of each channel: s = (z - m) * a and z = s / a + m."""
        offsets = list(self.latents_mean) or [self.shift_factor] * channels
        factors = [self.scaling_factor / std for std in self.latents_std] or [self.scaling_factor] * channels
        return offsets, factors
