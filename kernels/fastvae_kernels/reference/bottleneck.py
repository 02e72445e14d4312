"""Defines `bottleneck`: the narrow layers around the latent, encoder's head to decoder's first layer."""

from torch import Tensor

from .gaussian_head import gaussian_head
from .product import activated_product

__all__ = ["bottleneck"]


def bottleneck(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    alpha: float | None,
    seed: int | None,
    start: int,
    stream: int,
    minimum: float | None,
    maximum: float | None,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """act(z @ weight.T + bias) [n, out] of the z of `gaussian_head` in x's dtype, and kl [n]."""
    head = (x, mean_weight, mean_bias, logvar_weight, logvar_bias, seed, start, stream)
    z, kl, _, _ = gaussian_head(*head, None, minimum, maximum, False, precision)
    return activated_product(z, weight, bias, activation, alpha, precision).to(x.dtype), kl
