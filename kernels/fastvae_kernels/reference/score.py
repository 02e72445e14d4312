"""Which likelihood scores an output: the choice that `linear_score` and `elbo` share."""

from torch import Tensor

from .bernoulli_nll import bernoulli_nll
from .gaussian_nll import gaussian_nll
from .squared_error import squared_error

__all__ = ["score"]


def score(output: Tensor, data: Tensor, likelihood: str, logvar: Tensor | None, mask: Tensor | None) -> Tensor:
    """The score [s*n] of data [n, ...] under an output [s*n, ...]; `logvar` is for "gaussian" alone."""
    if likelihood == "bernoulli":
        return bernoulli_nll(output, data, mask)
    if likelihood == "squared_error":
        return squared_error(output, data, mask)
    assert likelihood == "gaussian"
    assert logvar is not None
    return gaussian_nll(output, logvar, data, mask)
