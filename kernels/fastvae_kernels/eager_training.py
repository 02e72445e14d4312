"""`elbo_loss` as anybody would write it, in plain PyTorch and any dtype, for autograd to differentiate."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .eager_likelihoods import masked_sum, samples

__all__ = ["elbo_loss"]


def _entries(output: Tensor, data: Tensor, likelihood: str, logvar: Tensor | None) -> Tensor:
    if likelihood == "bernoulli":
        return F.binary_cross_entropy_with_logits(output, data, reduction="none")
    if logvar is None:
        return (data - output) ** 2
    return 0.5 * (math.log(2 * math.pi) + logvar + (data - output) ** 2 * torch.exp(-logvar))


def elbo_loss(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    *,
    likelihood: str = "bernoulli",
    output_logvar: Tensor | None = None,
    mask: Tensor | None = None,
    beta: float | Tensor = 1.0,
    free_bits: float = 0.0,
    capacity: float | Tensor | None = None,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, reconstruction and kl of the public op."""
    rows = masked_sum(_entries(output, samples(output, data), likelihood, output_logvar), data, mask)
    terms = -0.5 * (1 + logvar - mean**2 - torch.exp(logvar)).flatten(1)
    if reduction == "none":
        kl = terms.sum(1)
        return rows + beta * samples(rows, kl), rows, kl
    kl = terms.mean(0).sum()
    penalty = kl if capacity is None else (kl - capacity).abs()
    if free_bits:
        penalty = torch.stack([torch.clamp(dimension, min=free_bits) for dimension in terms.mean(0)]).sum()
    total = len(rows) if reduction == "sum" else 1
    return total * (rows.mean() + beta * penalty), total * rows.mean(), total * kl
