"""Scoring ops of real-valued data: heavier tails than a Gaussian's, and data in [0, 1]."""

from torch import Tensor

from .. import reference
from ..dispatch import resolve_impl
from .likelihoods import check_data, check_parameter, row_sums
from .registration import register

__all__ = ["continuous_bernoulli_nll", "laplace_nll", "student_t_nll"]


@register("laplace_nll")
def _laplace_nll(location: Tensor, log_scale: Tensor, x: Tensor, mask: Tensor | None, impl: str) -> Tensor:
    if resolve_impl("laplace_nll", impl, location.device, location.dtype) == "triton":
        from ..triton.row_scores import laplace_nll as implementation
    else:
        implementation = reference.laplace_nll
    return implementation(location, log_scale, x, mask)


@_laplace_nll.register_fake
def _(location: Tensor, log_scale: Tensor, x: Tensor, mask: Tensor | None, impl: str) -> Tensor:
    return row_sums(location)


def laplace_nll(
    location: Tensor, log_scale: Tensor, x: Tensor, mask: Tensor | None = None, *, impl: str = "auto"
) -> Tensor:
    """-log p(x) under independent Laplace distributions: Σ log 2 + s + |x - location| exp(-s), s = log_scale.

    location: [s*n, ...]; log_scale: of location's shape, of shape location.shape[1:], or a scalar tensor; x: [n, ...];
    mask: bool of x's shape, True where an entry counts, or None. Row r of location is scored against x[r % n]. Returns
    [s*n] in nats, float32 (float64 for float64 location). Never NaN for finite inputs. An entry masked out contributes
    exactly 0, even where x is NaN.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_data("location", location, x, mask)
    check_parameter("log_scale", log_scale, "location", location)
    out: Tensor = _laplace_nll(location, log_scale, x, mask, impl)
    return out


@register("student_t_nll")
def _student_t_nll(
    location: Tensor, log_scale: Tensor, log_df: Tensor, x: Tensor, mask: Tensor | None, impl: str
) -> Tensor:
    if resolve_impl("student_t_nll", impl, location.device, location.dtype) == "triton":
        from ..triton.head_scores import student_t_nll as implementation
    else:
        implementation = reference.student_t_nll
    return implementation(location, log_scale, log_df, x, mask)


@_student_t_nll.register_fake
def _(location: Tensor, log_scale: Tensor, log_df: Tensor, x: Tensor, mask: Tensor | None, impl: str) -> Tensor:
    return row_sums(location)


def student_t_nll(
    location: Tensor, log_scale: Tensor, log_df: Tensor, x: Tensor, mask: Tensor | None = None, *, impl: str = "auto"
) -> Tensor:
    """-log p(x) under independent Student's t distributions of exp(log_df) degrees of freedom.

    location: [s*n, ...]; log_scale and log_df: of location's shape, of shape location.shape[1:], or scalar tensors;
    degrees of freedom saturate at exp(±60). x: [n, ...]; mask: bool of x's shape, True where an entry counts, or None.
    Row r of location is scored against x[r % n]. Returns [s*n] in nats, float32 (float64 for float64 location). Never
    NaN for finite inputs. An entry masked out contributes exactly 0, even where x is NaN.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_data("location", location, x, mask)
    check_parameter("log_scale", log_scale, "location", location)
    check_parameter("log_df", log_df, "location", location)
    out: Tensor = _student_t_nll(location, log_scale, log_df, x, mask, impl)
    return out


@register("continuous_bernoulli_nll")
def _continuous_bernoulli_nll(logits: Tensor, x: Tensor, mask: Tensor | None, impl: str) -> Tensor:
    if resolve_impl("continuous_bernoulli_nll", impl, logits.device, logits.dtype) == "triton":
        from ..triton.row_scores import continuous_bernoulli_nll as implementation
    else:
        implementation = reference.continuous_bernoulli_nll
    return implementation(logits, x, mask)


@_continuous_bernoulli_nll.register_fake
def _(logits: Tensor, x: Tensor, mask: Tensor | None, impl: str) -> Tensor:
    return row_sums(logits)


def continuous_bernoulli_nll(logits: Tensor, x: Tensor, mask: Tensor | None = None, *, impl: str = "auto") -> Tensor:
    """-log p(x) under independent continuous Bernoullis, of density l exp(l x) / (exp(l) - 1) on [0, 1].

    logits l: [s*n, ...]; x: [n, ...] floating, in [0, 1] where it counts; mask: bool of x's shape, True where an entry
    counts, or None. Row r of logits is scored against x[r % n]. Returns [s*n] in nats, float32 (float64 for float64
    logits). Never NaN for finite inputs. An entry masked out contributes exactly 0, even where x is NaN.

    Source: Loaiza-Ganem and Cunningham, "The continuous Bernoulli", NeurIPS 2019.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_data("logits", logits, x, mask)
    out: Tensor = _continuous_bernoulli_nll(logits, x, mask, impl)
    return out
