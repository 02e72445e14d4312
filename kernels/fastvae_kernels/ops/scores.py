"""The fused scores: a decoder's last layer with its likelihood, and the evidence lower bound in one pass."""

import torch
from torch import Tensor

from .. import reference
from ..checks import (
    check_activation,
    check_floating,
    check_like,
    check_mask,
    check_precision,
    check_rows,
    check_sample_shape,
    check_scales,
    check_shape,
    check_weights,
)
from ..dispatch import resolve_impl
from .registration import register

__all__ = ["accumulated", "check_likelihood", "elbo", "linear_score"]

_LIKELIHOODS = ("bernoulli", "gaussian", "squared_error")


def check_likelihood(
    likelihood: str, name: str, logvar: Tensor | None, output_name: str, output: Tensor, *shapes: tuple[int, ...]
) -> None:
    """`likelihood` is one of the three, and `logvar` has one of the shapes for "gaussian" and is None for others."""
    if likelihood not in _LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {', '.join(_LIKELIHOODS)}; found {likelihood!r}")
    if likelihood != "gaussian":
        if logvar is not None:
            raise ValueError(f"{name} must be None for likelihood {likelihood!r}")
        return
    if logvar is None:
        raise ValueError(f"{name} must be a tensor for likelihood 'gaussian'; found None")
    check_like(name, logvar, output_name, output, dtype=False)
    check_shape(name, logvar, *shapes)


def accumulated(x: Tensor) -> torch.dtype:
    """What a score of x comes in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@register("linear_score")
def _linear_score(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    data: Tensor,
    likelihood: str,
    logvar: Tensor | None,
    mask: Tensor | None,
    activation: str,
    alpha: float | None,
    precision: str,
    x_scale: Tensor | None,
    weight_scale: Tensor | None,
    impl: str,
) -> Tensor:
    if resolve_impl("linear_score", impl, x.device, x.dtype) == "triton":
        from ..triton.linear_score import linear_score as implementation
    else:
        implementation = reference.linear_score
    settings = (likelihood, logvar, mask, activation, alpha, precision, x_scale, weight_scale)
    return implementation(x, weight, bias, data, *settings)


@_linear_score.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    data: Tensor,
    likelihood: str,
    logvar: Tensor | None,
    mask: Tensor | None,
    activation: str,
    alpha: float | None,
    precision: str,
    x_scale: Tensor | None,
    weight_scale: Tensor | None,
    impl: str,
) -> Tensor:
    return x.new_empty(x.shape[0], dtype=accumulated(x))


def linear_score(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    data: Tensor,
    *,
    likelihood: str = "bernoulli",
    logvar: Tensor | None = None,
    mask: Tensor | None = None,
    activation: str = "identity",
    alpha: float | None = None,
    precision: str = "ieee",
    x_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """The score of data under p = act(x @ weight.T + bias), which is never rounded nor written to memory.

    likelihood: "bernoulli" takes p as logits, and no activation; "gaussian" takes it as the mean, with `logvar`
    a scalar tensor or [out]; "squared_error" is Σ (data - p)². x: [s*n, in] and weight: [out, in], with bias
    [out] or None, precision and the scales of e4m3 operands as in `linear`. data: [n, out] floating; mask: bool
    of data's shape, True where an entry counts, or None. Row r of x is scored against data[r % n]. Returns [s*n]
    in nats, float32 (float64 for float64 x). An entry masked out contributes exactly 0, even where data is NaN.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_activation(activation, alpha)
    check_floating("x", x, 2, float8=True)
    check_floating("weight", weight, 2, float8=True)
    outputs = weight.shape[0]
    check_shape("weight", weight, (outputs, x.shape[1]))
    check_weights(x, weight, bias, outputs)
    check_precision(precision, "x", x)
    check_scales(x, x_scale, weight_scale, outputs)
    check_floating("data", data, 2)
    check_like("data", data, "x", x, dtype=False)
    check_shape("data", data, (data.shape[0], outputs))
    check_rows("x", x.shape[0], "data", data.shape[0])
    check_mask(mask, "data", data)
    check_likelihood(likelihood, "logvar", logvar, "x", x, (), (outputs,))
    if likelihood == "bernoulli" and activation != "identity":
        raise ValueError(f"activation must be 'identity' for likelihood 'bernoulli', of logits; found {activation!r}")
    settings = (likelihood, logvar, mask, activation, alpha, precision, x_scale, weight_scale)
    out: Tensor = _linear_score(x, weight, bias, data, *settings, impl)
    return out


@register("elbo")
def _elbo(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if resolve_impl("elbo", impl, output.device, output.dtype) == "triton":
        from ..triton.row_scores import elbo as implementation
    else:
        implementation = reference.elbo
    return implementation(output, data, mean, logvar, likelihood, output_logvar, mask)


@_elbo.register_fake
def _(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    negative_elbo, reconstruction, kl = (x.new_empty(x.shape[0], dtype=accumulated(x)) for x in (output, output, mean))
    return negative_elbo, reconstruction, kl


def elbo(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    *,
    likelihood: str = "bernoulli",
    output_logvar: Tensor | None = None,
    mask: Tensor | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """The negative evidence lower bound and its two terms: (reconstruction + kl[r % n], reconstruction, kl).

    output: [s*n, ...]; data: [n, ...] floating; mean, logvar: [n, latent], the posterior's, of output's dtype.
    likelihood: "bernoulli" takes output as logits; "gaussian" as the mean, with `output_logvar` a scalar tensor,
    of shape output.shape[1:] or of output's shape; "squared_error" is Σ (data - output)². mask: bool of data's
    shape, True where an entry counts, or None. Row r of output is scored against data[r % n]. Returns [s*n],
    [s*n] and [n] in nats, float32 (float64 for float64). An entry masked out contributes exactly 0, even where
    data is NaN.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_floating("output", output)
    check_sample_shape("output", output, "data", data)
    check_mask(mask, "data", data)
    check_floating("mean", mean, 2)
    check_like("mean", mean, "output", output)
    check_shape("mean", mean, (data.shape[0], mean.shape[1]))
    check_like("logvar", logvar, "mean", mean)
    check_shape("logvar", logvar, mean.shape)
    shapes = (output.shape, output.shape[1:], ())
    check_likelihood(likelihood, "output_logvar", output_logvar, "output", output, *shapes)
    negative_elbo, reconstruction, kl = _elbo(output, data, mean, logvar, likelihood, output_logvar, mask, impl)
    return negative_elbo, reconstruction, kl
