"""The scoring ops: how unlikely data are under a likelihood's parameters, one number a row."""

import torch
from torch import Tensor

from .. import reference
from ..checks import check_floating, check_like, check_mask, check_sample_shape, check_shape
from ..dispatch import resolve_impl
from .registration import register

__all__ = ["bernoulli_nll", "check_data", "check_parameter", "gaussian_nll", "row_sums", "squared_error"]


def row_sums(parameter: Tensor) -> Tensor:
    """The shape rule of a likelihood: a number for each row of a parameter, float32 or, of float64, float64."""
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    return parameter.new_empty(parameter.shape[0], dtype=dtype)


def check_data(name: str, parameter: Tensor, x: Tensor, mask: Tensor | None) -> None:
    """`parameter` holds samples for the rows of x, and `mask` is None or goes with x."""
    check_floating(name, parameter)
    check_sample_shape(name, parameter, "x", x)
    check_mask(mask, "x", x)


def check_parameter(name: str, value: Tensor, parameter_name: str, parameter: Tensor) -> None:
    """`value` is a further parameter: of the first's shape, of that of its rows, or a scalar tensor."""
    check_like(name, value, parameter_name, parameter, dtype=False)
    check_shape(name, value, parameter.shape, parameter.shape[1:], ())


@register("bernoulli_nll")
def _bernoulli_nll(logits: Tensor, x: Tensor, mask: Tensor | None, impl: str) -> Tensor:
    if resolve_impl("bernoulli_nll", impl, logits.device, logits.dtype) == "triton":
        from ..triton.row_scores import bernoulli_nll as implementation
    else:
        implementation = reference.bernoulli_nll
    return implementation(logits, x, mask)


@_bernoulli_nll.register_fake
def _(logits: Tensor, x: Tensor, mask: Tensor | None, impl: str) -> Tensor:
    return row_sums(logits)


def bernoulli_nll(logits: Tensor, x: Tensor, mask: Tensor | None = None, *, impl: str = "auto") -> Tensor:
    """-log p(x) under independent Bernoullis with these logits: Σ softplus(l) - x l over all axes but 0.

    logits: [s*n, ...]; x: [n, ...] floating, in [0, 1] where it counts; mask: bool of x's shape, True where
    an entry counts, or None. Row r of logits is scored against x[r % n]. Returns [s*n] in nats, float32
    (float64 for float64 logits). An entry masked out contributes exactly 0, even where x is NaN.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_data("logits", logits, x, mask)
    out: Tensor = _bernoulli_nll(logits, x, mask, impl)
    return out


@register("gaussian_nll")
def _gaussian_nll(mean: Tensor, logvar: Tensor, x: Tensor, mask: Tensor | None, impl: str) -> Tensor:
    if resolve_impl("gaussian_nll", impl, mean.device, mean.dtype) == "triton":
        from ..triton.row_scores import gaussian_nll as implementation
    else:
        implementation = reference.gaussian_nll
    return implementation(mean, logvar, x, mask)


@_gaussian_nll.register_fake
def _(mean: Tensor, logvar: Tensor, x: Tensor, mask: Tensor | None, impl: str) -> Tensor:
    return row_sums(mean)


def gaussian_nll(mean: Tensor, logvar: Tensor, x: Tensor, mask: Tensor | None = None, *, impl: str = "auto") -> Tensor:
    """-log p(x) under independent normals: Σ ½ (log 2π + logvar + (x - mean)² exp(-logvar)).

    mean: [s*n, ...]; logvar: of mean's shape, of shape mean.shape[1:], or a scalar tensor; x: [n, ...];
    mask: bool of x's shape, True where an entry counts, or None. Row r of mean is scored against x[r % n].
    Returns [s*n] in nats, float32 (float64 for a float64 mean). Never NaN for finite inputs. An entry masked
    out contributes exactly 0, even where x is NaN.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_data("mean", mean, x, mask)
    check_parameter("logvar", logvar, "mean", mean)
    out: Tensor = _gaussian_nll(mean, logvar, x, mask, impl)
    return out


@register("squared_error")
def _squared_error(output: Tensor, x: Tensor, impl: str) -> Tensor:
    if resolve_impl("squared_error", impl, output.device, output.dtype) == "triton":
        from ..triton.row_scores import squared_error as implementation
    else:
        implementation = reference.squared_error
    return implementation(output, x)


@_squared_error.register_fake
def _(output: Tensor, x: Tensor, impl: str) -> Tensor:
    return row_sums(output)


def squared_error(output: Tensor, x: Tensor, *, impl: str = "auto") -> Tensor:
    """Σ (x - output)² over all axes but 0: the squared distance of data to a reconstruction.

    output: [s*n, ...]; x: [n, ...] floating. Row r of output is compared with x[r % n]. Returns [s*n], float32
    (float64 for float64 output).

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_data("output", output, x, None)
    out: Tensor = _squared_error(output, x, impl)
    return out
