"""What every likelihood shares: pairing samples with data rows, and the masked sum that ends it."""

from torch import Tensor

__all__ = ["along_rows", "split_samples", "sum_rows"]


def split_samples(parameter: Tensor, n: int) -> Tensor:
    """parameter [s*n, ...] as [s, n, ...], so that it broadcasts against data [n, ...]."""
    return parameter.reshape(parameter.shape[0] // n, n, *parameter.shape[1:])


def along_rows(other: Tensor, parameter: Tensor, n: int) -> Tensor:
    """A further parameter, per row as `parameter` [s*n, ...] or shared by all rows, to broadcast against data [n, ...].

    A shared one has shape parameter.shape[1:] or is a scalar.
    """
    return split_samples(other, n) if other.dim() == parameter.dim() else other


def sum_rows(nll: Tensor, mask: Tensor | None) -> Tensor:
    """Sum a non-empty nll [s, n, ...], which the caller owns, over its trailing axes -> [s*n].

    Entries where mask [n, ...] is False are replaced by 0, whatever they hold. The order of the sum, and so its
    rounding, does not depend on strides.
    """
    if mask is not None:
        nll.masked_fill_(~mask, 0)
    return nll.reshape(nll.shape[0] * nll.shape[1], -1).contiguous().sum(1)
