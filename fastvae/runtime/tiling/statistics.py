"""Mean and variance of an image's channels, gathered band after band."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastvae.plan import Plan, Step

# Numbers looked at together on a CPU: few enough for its caches.
BLOCK = 2**17


@dataclass(frozen=True)
class Statistics:
    """``count`` pixels; their ``mean`` and the sum of their squared differences to it, (channels,) in float64."""

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, band: Tensor) -> Statistics:
        """Those of ``band``, (1, channels, height, width)."""
        flat = band[0].flatten(1)
        channels, pixels = flat.shape
        size = max(1, BLOCK // pixels) if band.device.type == "cpu" else channels
        parts = [_moments(flat[low : low + size]) for low in range(0, channels, size)]
        mean, squares = (torch.cat(values) for values in zip(*parts, strict=True))
        return cls(pixels, mean, squares)

    def merged(self, other: Statistics) -> Statistics:
        """Those of both parts (Chan, Golub & LeVeque 1983): no difference of large squares is ever taken."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        squares = self.squares + other.squares + apart.square() * (self.count * other.count / count)
        return Statistics(count, mean, squares)


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared differences to it of each row."""
    rows = rows.to(torch.float64, copy=True)
    mean = rows.mean(1)
    rows -= mean[:, None]
    return mean, torch.linalg.vecdot(rows, rows)


def norm_parameters(plan: Plan, step: Step, found: Statistics, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, shift and centre (1, channels) of a group norm whose input has these statistics."""
    groups = step.attributes["groups"]
    means = found.mean.view(groups, -1)
    mean = means.mean(1, keepdim=True)
    squares = found.squares.view(groups, -1) + found.count * (means - mean).square()
    variance = squares.mean(1, keepdim=True) / found.count
    spread = (variance + step.attributes["eps"]).rsqrt().expand_as(means).flatten()
    weight, bias = (None if name is None else plan.weights[name].double() for name in step.inputs[1:])
    scale = spread if weight is None else spread * weight
    mean = mean.expand_as(means).flatten()
    centre = mean.to(dtype)
    shift = (centre.double() - mean) * scale  # what rounding the mean leaves
    shift = shift if bias is None else shift + bias
    return scale.to(dtype)[None], shift.to(dtype)[None], centre[None]
