"""Defines `elbo_loss`: the two terms that training adds up, and the gradient of the first; the second's is two lines.

Gradients are in closed form, entry by entry, and the suite differentiates the values numerically to check them.
"""

import torch
from torch import Tensor

from ..layout import empty_rows
from .posterior import divergence_terms
from .precision import accumulation_dtype
from .rows import along_rows, split_samples
from .score import score

__all__ = ["divergence", "elbo_loss", "elbo_loss_backward", "entry_gradients"]

_PLAIN = 80.0  # exp(±80) is a normal float32


def divergence(mean: Tensor, logvar: Tensor, by_dimension: bool) -> Tensor:
    """KL(N(mean, exp logvar) ‖ N(0, I)) of each row [n] or, over rows, the mean of each dimension [latent]."""
    acc = accumulation_dtype(mean.dtype)
    terms = divergence_terms(mean.to(acc).flatten(1), logvar.to(acc).flatten(1))
    return terms.mean(0) if by_dimension else terms.sum(1)


def elbo_loss(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
    reduction: str,
    by_dimension: bool,
) -> tuple[Tensor, Tensor]:
    """output [s*n, ...], data [n, ...], mean and logvar [n, ...] -> reconstruction, [] or for "none" [s*n], and kl.

    kl is [n] or, by dimension, [latent].
    """
    rows = score(output, data, likelihood, output_logvar, mask)
    kl = divergence(mean, logvar, by_dimension)
    if reduction == "none":
        return rows, kl
    return rows.sum() if reduction == "sum" else rows.mean(), kl


def entry_gradients(
    output: Tensor, data: Tensor, likelihood: str, logvar: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The derivatives of each entry's score by output and by logvar; tensors that broadcast, in the dtype they have.

    "bernoulli": σ(l) - x. "squared_error": 2 (o - x). "gaussian": d exp(-logvar) and ½ (1 - d² exp(-logvar)) with
    d = o - x, where |logvar| is large as products of d exp(-logvar / 2), which saturates, so that 0 · inf cannot occur.
    """
    if likelihood == "bernoulli":
        return torch.sigmoid(output) - data, None
    d = output - data
    if likelihood == "squared_error":
        return d * 2, None
    assert logvar is not None
    largest = torch.finfo(d.dtype).max
    half = torch.exp(logvar * -0.5).clamp_max(largest)
    z = d.clamp(-largest, largest) * half
    plain = logvar.abs() < _PLAIN
    scaled = d * torch.exp(-logvar)
    square = torch.where(plain, d * scaled, z * z)
    return torch.where(plain, scaled, z * half), (1 - square) * 0.5


def elbo_loss_backward(
    weight: Tensor,
    output: Tensor,
    data: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
    wants_logvar: bool,
) -> tuple[Tensor, Tensor | None]:
    """weight [] or [s*n], that of a row's score in the loss -> gradients by output and output_logvar, as those are."""
    acc = accumulation_dtype(output.dtype)
    n, out = data.shape[0], empty_rows(output, output.dtype)[1]
    samples = output.shape[0] // max(n, 1)
    if not n or not output.numel():
        return out, torch.zeros_like(output_logvar) if wants_logvar and output_logvar is not None else None
    v = None if output_logvar is None else along_rows(output_logvar.to(acc), output, n)
    gradients = entry_gradients(split_samples(output.to(acc), n), data.to(acc), likelihood, v)
    by_row = weight.to(acc).expand(samples * n).view(samples, n, *[1] * (output.dim() - 1))
    of_output, of_logvar = (
        None if g is None else (g if mask is None else g.masked_fill(~mask, 0)) * by_row for g in gradients
    )
    assert of_output is not None
    out.copy_(of_output.view(output.shape))
    if not wants_logvar or of_logvar is None or output_logvar is None:
        return out, None
    if output_logvar.dim() == output.dim() and output_logvar.dim():
        rows = empty_rows(output, output_logvar.dtype)[1]
        return out, rows.copy_(of_logvar.view(output.shape))
    shared = of_logvar.sum((0, 1)) if output_logvar.dim() else of_logvar.sum()
    return out, shared.to(output_logvar.dtype)
