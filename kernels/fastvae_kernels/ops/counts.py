"""Scoring ops of counts and categories."""

from torch import Tensor

from .. import reference
from ..checks import check_floating
from ..dispatch import resolve_impl
from .likelihoods import check_data, check_parameter, row_sums
from .registration import register

__all__ = ["categorical_nll", "negative_binomial_nll", "poisson_nll"]


@register("poisson_nll")
def _poisson_nll(log_rate: Tensor, zero_logits: Tensor | None, x: Tensor, mask: Tensor | None, impl: str) -> Tensor:
    if resolve_impl("poisson_nll", impl, log_rate.device, log_rate.dtype) == "triton":
        from ..triton.head_scores import poisson_nll as implementation
    else:
        implementation = reference.poisson_nll
    return implementation(log_rate, zero_logits, x, mask)


@_poisson_nll.register_fake
def _(log_rate: Tensor, zero_logits: Tensor | None, x: Tensor, mask: Tensor | None, impl: str) -> Tensor:
    return row_sums(log_rate)


def poisson_nll(
    log_rate: Tensor, x: Tensor, mask: Tensor | None = None, *, zero_logits: Tensor | None = None, impl: str = "auto"
) -> Tensor:
    """-log p(x) under independent Poissons: Σ exp(m) - x m + log Γ(x + 1), m = log_rate.

    log_rate: [s*n, ...]; zero_logits: of log_rate's shape, of shape log_rate.shape[1:], a scalar tensor or None: x is 0
    with probability sigmoid(zero_logits) besides. x: [n, ...], not negative where it counts; mask: bool of x's shape,
    True where an entry counts, or None. Row r of log_rate is scored against x[r % n]. Returns [s*n] in nats, float32
    (float64 for float64 log_rate). Never NaN for finite inputs. An entry masked out contributes exactly 0, even where x
    is NaN. Counts beyond 1e30 count as that.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_data("log_rate", log_rate, x, mask)
    if zero_logits is not None:
        check_parameter("zero_logits", zero_logits, "log_rate", log_rate)
    out: Tensor = _poisson_nll(log_rate, zero_logits, x, mask, impl)
    return out


@register("negative_binomial_nll")
def _negative_binomial_nll(
    log_mean: Tensor, log_dispersion: Tensor, zero_logits: Tensor | None, x: Tensor, mask: Tensor | None, impl: str
) -> Tensor:
    if resolve_impl("negative_binomial_nll", impl, log_mean.device, log_mean.dtype) == "triton":
        from ..triton.head_scores import negative_binomial_nll as implementation
    else:
        implementation = reference.negative_binomial_nll
    return implementation(log_mean, log_dispersion, zero_logits, x, mask)


@_negative_binomial_nll.register_fake
def _(
    log_mean: Tensor, log_dispersion: Tensor, zero_logits: Tensor | None, x: Tensor, mask: Tensor | None, impl: str
) -> Tensor:
    return row_sums(log_mean)


def negative_binomial_nll(
    log_mean: Tensor,
    log_dispersion: Tensor,
    x: Tensor,
    mask: Tensor | None = None,
    *,
    zero_logits: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """-log p(x) under independent negative binomials: mean μ = exp(log_mean), variance μ + μ² exp(-log_dispersion).

    log_mean: [s*n, ...]; log_dispersion: of log_mean's shape, of shape log_mean.shape[1:], or a scalar tensor, and
    saturates at 60, a Poisson; zero_logits as one of these, or None: x is 0 with probability sigmoid(zero_logits)
    besides. x: [n, ...], not negative where it counts; mask: bool of x's shape, True where an entry counts, or None.
    Row r of log_mean is scored against x[r % n]. Returns [s*n] in nats, float32 (float64 for float64 log_mean). Never
    NaN for finite inputs. An entry masked out contributes exactly 0, even where x is NaN. Counts beyond 1e30 count as
    that.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_data("log_mean", log_mean, x, mask)
    check_parameter("log_dispersion", log_dispersion, "log_mean", log_mean)
    if zero_logits is not None:
        check_parameter("zero_logits", zero_logits, "log_mean", log_mean)
    out: Tensor = _negative_binomial_nll(log_mean, log_dispersion, zero_logits, x, mask, impl)
    return out


@register("categorical_nll")
def _categorical_nll(logits: Tensor, x: Tensor, mask: Tensor | None, impl: str) -> Tensor:
    if resolve_impl("categorical_nll", impl, logits.device, logits.dtype) == "triton":
        from ..triton.categorical_nll import categorical_nll as implementation
    else:
        implementation = reference.categorical_nll
    return implementation(logits, x, mask)


@_categorical_nll.register_fake
def _(logits: Tensor, x: Tensor, mask: Tensor | None, impl: str) -> Tensor:
    return row_sums(logits)


def categorical_nll(logits: Tensor, x: Tensor, mask: Tensor | None = None, *, impl: str = "auto") -> Tensor:
    """-log p(x) of one-hot rows, or of counts of categories short of their coefficient: -Σ x_k log softmax(logits)_k.

    logits: [s*n, k]; x: [n, k], not negative where it counts; mask: bool of x's shape, True where an entry counts, or
    None; of a row that is not seen in full x is one-hot, and what is scored is all that the seen entries leave
    possible. Row r of logits is scored against x[r % n]. Returns [s*n] in nats, float32 (float64 for float64 logits).
    Never NaN for finite inputs. An entry masked out contributes exactly 0, even where x is NaN.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_floating("logits", logits, 2)
    check_data("logits", logits, x, mask)
    out: Tensor = _categorical_nll(logits, x, mask, impl)
    return out
