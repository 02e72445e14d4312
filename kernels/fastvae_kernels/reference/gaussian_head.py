"""Defines `gaussian_head`: an encoder's last layer, the draw from its posterior, and the divergence from the prior."""

from torch import Tensor

from .posterior import divergence, draw
from .product import activated_product

__all__ = ["gaussian_head"]


def gaussian_head(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    seed: int | None,
    start: int,
    stream: int,
    samples: int | None,
    minimum: float | None,
    maximum: float | None,
    posterior: bool,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [n, in], weights [latent, in] -> z [n, latent] or [samples, n, latent], kl [n], mean, logvar [n, latent].

    Nothing is rounded to x's dtype before use. z is the mean without a seed; mean and logvar are empty unless
    `posterior` asks for them.
    """
    mean = activated_product(x, mean_weight, mean_bias, precision=precision)
    logvar = activated_product(x, logvar_weight, logvar_bias, precision=precision)
    if minimum is not None or maximum is not None:
        logvar = logvar.clamp(minimum, maximum)
    z = mean if seed is None else draw(mean, logvar, seed, start, stream, samples)
    kl = divergence(mean, logvar)
    if not posterior:
        return z.to(x.dtype), kl, x.new_empty(0), x.new_empty(0)
    return z.to(x.dtype), kl, mean.to(x.dtype, copy=True), logvar.to(x.dtype)
