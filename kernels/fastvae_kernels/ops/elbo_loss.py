"""`elbo_loss`: what training minimises, its two terms, and their gradients, which are computed along with them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import check_floating, check_like, check_mask, check_sample_shape, check_shape
from ..dispatch import resolve_impl
from ..errors import UnavailableError
from .elbo_step import loss_and_terms, may_take_a_step
from .elbo_terms import elbo_terms
from .registration import Op
from .scores import check_likelihood

__all__ = ["ElboLoss", "elbo_loss"]

_REDUCTIONS = ("mean", "sum", "none")
_TRANSFORMED = "under a transform of torch.func or in forward mode"


class ElboLoss(NamedTuple):
    """What `elbo_loss` returns: each a scalar or, with reduction "none", one number a row.

    loss: what to differentiate. reconstruction and kl, in nats, are detached, for the log; kl is the divergence itself,
    before free bits, capacity and beta.
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor


def _check_number(name: str, value: Any) -> None:
    """`value` is a number or a scalar tensor, and not negative."""
    if isinstance(value, Tensor):
        check_floating(name, value, 0)
        return
    if isinstance(value, bool) or not isinstance(value, (int, float, torch.SymFloat, torch.SymInt)):
        raise TypeError(f"{name} must be a number or a scalar tensor; found {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0; found {value}")


def _check_constraint(free_bits: float, capacity: float | Tensor | None, reduction: str) -> None:
    """At most one of the two constraints on the divergence, and only with a mean over rows to constrain."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(_REDUCTIONS)}; found {reduction!r}")
    if isinstance(free_bits, Tensor):
        raise TypeError("free_bits must be a number; found a tensor")
    _check_number("free_bits", free_bits)
    if capacity is not None:
        _check_number("capacity", capacity)
        if free_bits:
            raise ValueError("free_bits and capacity exclude each other; found both")
    if reduction == "none" and (free_bits or capacity is not None):
        raise ValueError("reduction must be 'mean' or 'sum' with free_bits or capacity, which are of the batch's mean")


# Times any number of samples it is a float32 yet.
_LARGEST_BETA = 2.0**64


def _unconstrained(beta: Any, free_bits: Any, capacity: Any) -> bool:
    """Whether the loss is reconstruction + beta · KL, beta being a plain number that is right and not too large."""
    return (
        capacity is None
        and type(free_bits) in (int, float)
        and free_bits == 0
        and type(beta) in (int, float)
        and 0 <= beta <= _LARGEST_BETA
    )


def _check_arguments(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
) -> None:
    check_floating("output", output)
    check_sample_shape("output", output, "data", data)
    check_mask(mask, "data", data)
    check_like("mean", mean, "output", output, dtype=False)
    if mean.dim() < 2 or mean.shape[0] != data.shape[0]:
        raise ValueError(f"mean must have shape ({data.shape[0]}, ...), data's rows first; found {tuple(mean.shape)}")
    check_like("logvar", logvar, "mean", mean)
    check_shape("logvar", logvar, mean.shape)
    shapes = (output.shape, output.shape[1:], ())
    check_likelihood(likelihood, "output_logvar", output_logvar, "output", output, *shapes)


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
    inplace: bool = False,
    impl: str = "auto",
) -> ElboLoss:
    """What training minimises: -log p(data | output) + beta · KL(N(mean, exp logvar) ‖ N(0, I)), with its gradients.

    output: [s*n, ...], from s draws for each row, logits for "bernoulli", means for "gaussian" and "squared_error";
    data: [n, ...]; mask: bool of data's shape, True where an entry counts, or None; row r of output is scored against
    data[r % n]. output_logvar: for "gaussian", of output's shape, of shape output.shape[1:], or a scalar tensor; None
    for the others. mean, logvar: [n, ...], of one dtype. All floating, on one device.

    beta: the divergence's weight, a number or a scalar tensor. free_bits: λ in nats; each latent dimension's KL,
    averaged over the batch's rows, counts as at least λ, and below that has no gradient (Kingma et al. 2016, a group
    being a dimension). capacity: C in nats; the divergence counts as |KL - C|, of the batch's mean KL (Burgess et al.
    2018, whose γ is beta). reduction: "mean" over the rows of output, "sum", or "none", which takes neither
    constraint; a mean over no rows is NaN, as PyTorch's are.

    inplace: gradients by output and output_logvar take those tensors' memory, so that a step needs none of its own;
    what they held is gone. If the layer before needs its output for its own gradient, as tanh does, backward says so.
    On CPUs in float32, and of tensors without gaps that want a gradient, are no leaves and share their memory with no
    other argument; elsewhere it changes nothing.

    Returns (loss, reconstruction, kl), float32 (float64 for float64), scalars or, for "none", [s*n], [s*n] and [n].
    Gradients go to output, output_logvar, mean and logvar; data gets none. By "cpu", in float32, they are computed with
    the value, else in a second pass. loss is differentiable once. Under torch.func's transforms, and in forward mode,
    "auto" is the reference.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run,
    NotImplementedError where a gradient is differentiated again.
    """
    usual = mask is None and reduction in ("mean", "sum") and impl in ("auto", "cpu")
    usual = usual and _unconstrained(beta, free_bits, capacity)
    if usual and may_take_a_step(output, data, mean, logvar, likelihood, output_logvar):
        overwritten = inplace and _may_be_overwritten(output, data, mean, logvar, output_logvar, None)
        how = output_logvar, likelihood, reduction == "mean", float(beta), overwritten
        return ElboLoss(*loss_and_terms(output, data, mean, logvar, *how))
    _check_arguments(output, data, mean, logvar, likelihood, output_logvar, mask)
    _check_number("beta", beta)
    _check_constraint(free_bits, capacity, reduction)
    if impl != "reference" and not torch.compiler.is_compiling() and Op.transformed():
        if impl != "auto":
            raise UnavailableError(f"impl {impl!r} of elbo_loss cannot run {_TRANSFORMED}; impl 'reference' can")
        impl = "reference"
    resolved = resolve_impl("elbo_loss", impl, output.device, torch.promote_types(output.dtype, mean.dtype))
    can_keep = resolved == "cpu" and output.dtype.itemsize >= 4 and torch.is_grad_enabled()
    keep_logvar = can_keep and output_logvar is not None and output_logvar.requires_grad
    shared = output_logvar is not None and output_logvar.dim() < max(output.dim(), 1)
    if reduction == "none" and keep_logvar and shared:  # a sum over rows cannot be weighted by row later
        can_keep = keep_logvar = False
    keep = keep_logvar or (can_keep and output.requires_grad)
    inplace = inplace and keep and _may_be_overwritten(output, data, mean, logvar, output_logvar, mask)
    settings = likelihood, output_logvar, mask, reduction, free_bits > 0, keep, keep_logvar, inplace
    reconstruction, kl, _, _ = elbo_terms(output, data, mean, logvar, *settings, impl)
    samples = output.shape[0] // max(data.shape[0], 1)
    if reduction == "none":
        loss = reconstruction + beta * kl.repeat(samples)
        return ElboLoss(loss, reconstruction.detach(), kl.detach())
    divergence, penalty = _constrained(kl, free_bits, capacity, output.shape[0] if reduction == "sum" else 1)
    return ElboLoss(reconstruction + beta * penalty, reconstruction.detach(), divergence.detach())


def _may_be_overwritten(output: Tensor, *others: Tensor | None) -> bool:
    """Whether output and, of the others, output_logvar share no memory with what else is read, and nobody traces."""
    if torch.compiler.is_compiling() or Op.traced((output, *others)):
        return False
    data, mean, logvar, output_logvar, _ = others
    memory = [x.untyped_storage().data_ptr() for x in (data, mean, logvar) if x is not None]
    written = [x for x in (output, output_logvar) if x is not None]
    apart = len(written) == 1 or written[0].untyped_storage().data_ptr() != written[1].untyped_storage().data_ptr()
    return apart and not any(x.untyped_storage().data_ptr() in memory for x in written)


def _constrained(kl: Tensor, free_bits: float, capacity: float | Tensor | None, rows: int) -> tuple[Tensor, Tensor]:
    """`rows` times the batch's mean divergence, and what is minimised of it; kl [n] or, with free bits, [latent]."""
    divergence = kl.sum() if free_bits or not len(kl) else kl.mean()
    penalty = divergence
    if free_bits:
        penalty = kl.clamp_min(free_bits).sum()
    elif capacity is not None:
        penalty = (divergence - capacity).abs()
    return divergence * rows, penalty * rows
