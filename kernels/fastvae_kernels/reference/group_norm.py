"""Defines `group_norm`: each group of an image's channels to mean 0 and variance 1, scale, shift, activation."""

from torch import Tensor

from ..layout import output_format
from .activation import activate_
from .norm_apply import written
from .precision import accumulation_dtype

__all__ = ["group_norm"]


def _mean(grouped: Tensor) -> Tensor:
    """[n, g, c, h, w] -> [n, g, 1, 1, 1]; over pixels, then channels, which are short sums in either memory format."""
    return grouped.mean((3, 4), keepdim=True).mean(2, keepdim=True)


def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    activation: str,
    alpha: float | None,
    out_scale: float | None = None,
) -> Tensor:
    """act((x - mean) / sqrt(var + eps) * weight + bias); x [n, c, h, w], weight and bias [c] or None.

    mean and var (biased) are each group's, over its channels and pixels. What the rounding of a large mean leaves is
    subtracted as a second mean, so that x of mean 1e3 and standard deviation 1e-2 comes out right in float32.
    With out_scale: that divided by it, in e4m3, saturating.
    """
    acc = accumulation_dtype(x.dtype)
    n, channels, h, w = x.shape
    per_channel = (groups, channels // groups, 1, 1)
    y = x.to(acc, copy=True, memory_format=output_format(x))
    grouped = y.view(n, groups, channels // groups, h, w)
    for _ in range(2):
        grouped -= _mean(grouped)
    scale = (_mean(grouped.square()) + eps).rsqrt_()
    grouped *= scale if weight is None else scale * weight.to(acc).view(per_channel)
    if bias is not None:
        grouped += bias.to(acc).view(per_channel)
    return written(activate_(y, activation, alpha), x, out_scale)
