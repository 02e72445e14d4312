"""Defines `linear_prior`: the first layer of a decoder, fed with latents that are drawn, not passed."""

from torch import Tensor

from .product import activated_product
from .sample_normal import sample_normal

__all__ = ["linear_prior"]


def linear_prior(
    n: int,
    weight: Tensor,
    bias: Tensor | None,
    seed: int,
    start: int,
    stream: int,
    activation: str,
    alpha: float | None,
    precision: str,
) -> Tensor:
    """act(z @ weight.T + bias) with z [n, in] from `sample_normal` in weight's dtype -> [n, out]."""
    z = sample_normal(n, weight.shape[1], seed, start, stream, None, weight.dtype, weight.device)
    return activated_product(z, weight, bias, activation, alpha, precision).to(weight.dtype)
