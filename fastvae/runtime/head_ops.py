"""Steps of likelihoods that are no ops of ``fastvae_kernels``, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import fastvae_kernels
from fastvae.likelihoods import expectation


def _columns(x: Tensor, *, first: int, last: int) -> tuple[Tensor, ...]:
    """Channels, or columns of flat rows, ``first`` to ``last``, the last not included, as a view."""
    return (x[:, first:last],)


def _concat(*parts: Tensor) -> tuple[Tensor, ...]:
    """Columns one after the other."""
    return (torch.cat(parts, 1),)


def _log_softmax(x: Tensor) -> tuple[Tensor, ...]:
    """Logarithms of the shares of flat rows' entries."""
    return (torch.log_softmax(x, 1),)


def _log_total(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Logarithms of the sums of flat rows (rows, 1); of an empty row -inf, which what reads it bounds."""
    return x.to(torch.promote_types(dtype, torch.float32)).sum(1, keepdim=True).log().to(dtype)


def _add_log_total(shares: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """shares (samples * rows, entries) in logarithms, plus that of the sum of x's row (rows, entries)."""
    samples = shares.reshape(-1, *x.shape) if len(x) else shares[None]
    return ((samples + _log_total(x, shares.dtype)).reshape(shares.shape),)


def _less_total(nll: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """The nll (samples * rows,) of counts under Poissons, less that of their totals: of their shares alone."""
    total = x.to(nll.dtype).sum(1, keepdim=True)
    of_total = fastvae_kernels.poisson_nll(_log_total(x, nll.dtype), total, impl="reference")
    return ((nll.reshape(-1, len(x)) - of_total).flatten().clamp_min(0) if len(x) else nll,)


def _expectation(location: Tensor, zero_logits: Tensor | None, *, likelihood: str) -> tuple[Tensor, ...]:
    return (expectation(location, zero_logits, likelihood=likelihood),)


HEAD_OPS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "columns": _columns,
    "concat": _concat,
    "log_softmax": _log_softmax,
    "add_log_total": _add_log_total,
    "less_total": _less_total,
    "expectation": _expectation,
}
