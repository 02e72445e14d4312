"""Defines `linear_score`: a decoder's last layer and the score of data under it."""

from torch import Tensor

from .product import activated_product
from .score import score

__all__ = ["linear_score"]


def linear_score(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    data: Tensor,
    likelihood: str,
    logvar: Tensor | None,
    mask: Tensor | None,
    activation: str,
    alpha: float | None,
    precision: str,
    x_scale: Tensor | None,
    weight_scale: Tensor | None,
) -> Tensor:
    """x [s*n, in], weight [out, in], data and mask [n, out] -> [s*n]; the layer's output is never rounded."""
    output = activated_product(x, weight, bias, activation, alpha, precision, x_scale, weight_scale)
    return score(output, data, likelihood, logvar, mask)
