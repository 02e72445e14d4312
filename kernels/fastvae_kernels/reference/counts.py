"""What likelihoods of counts share: extra zeros, and parameters kept where their differences are finite."""

import torch
from torch import Tensor

from .activation import softplus_

__all__ = ["MOST", "bounded", "softplus", "with_extra_zeros"]

MOST = 1e30
"""Counts beyond it count as it."""


def bounded(log_rate: Tensor) -> Tensor:
    """A logarithm whose difference from another is finite."""
    quarter = torch.finfo(log_rate.dtype).max / 4
    return log_rate.clamp(-quarter, quarter)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), to the last place also where PyTorch's own is x."""
    return softplus_(x.clone())


def with_extra_zeros(nll: Tensor, nll_of_zero: Tensor, zero_logits: Tensor | None, x: Tensor) -> Tensor:
    """The nll of x where another process makes it 0 with probability sigmoid(zero_logits), and leaves it alone else.

    nll_of_zero is what the nll would be at x = 0.
    """
    if zero_logits is None:
        return nll
    log_zero, log_other = -softplus(-zero_logits), -softplus(zero_logits)
    of_zero = -torch.logaddexp(log_zero, log_other - nll_of_zero)
    return torch.where(x > 0, nll - log_other, of_zero)
