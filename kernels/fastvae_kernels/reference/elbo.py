"""Defines `elbo`: reconstruction error and divergence from the prior, and their sum, per row."""

from torch import Tensor

from .posterior import divergence
from .precision import accumulation_dtype
from .score import score

__all__ = ["elbo"]


def elbo(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """output [s*n, ...], data [n, ...], mean and logvar [n, latent] -> -ELBO [s*n], reconstruction [s*n], kl [n]."""
    acc = accumulation_dtype(mean.dtype)
    reconstruction = score(output, data, likelihood, output_logvar, mask)
    kl = divergence(mean.to(acc), logvar.to(acc))
    samples = output.shape[0] // max(data.shape[0], 1)
    return reconstruction + kl.repeat(samples), reconstruction, kl
