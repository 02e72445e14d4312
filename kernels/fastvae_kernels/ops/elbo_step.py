"""The short way through `elbo_loss`: plain float32 rows on a CPU, whose loss is a mean or a sum without constraints."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..cpu import elbo_step, why_not
from .elbo_terms import once, times
from .registration import PLAIN, Op

__all__ = ["loss_and_terms", "may_take_a_step"]

_LIKELIHOODS = ("bernoulli", "squared_error")


def _simple(x: Any) -> bool:
    return (
        type(x) in PLAIN
        and x.is_cpu
        and x.dtype is torch.float32
        and x.is_contiguous()
        and not x.is_neg()
        and x.numel() > 0
    )


def may_take_a_step(
    output: Tensor, data: Tensor, mean: Tensor, logvar: Tensor, likelihood: str, output_logvar: Tensor | None
) -> bool:
    """Whether the tensors are all that `elbo_step` asks for, and nothing but eager autograd goes on.

    What it says yes to has no error that `elbo_loss` would raise.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    if not (_simple(output) and _simple(data) and _simple(mean) and _simple(logvar) and output.requires_grad):
        return False
    if output_logvar is None:
        if likelihood not in _LIKELIHOODS:
            return False
    elif likelihood != "gaussian" or not _simple(output_logvar) or output_logvar.shape != output.shape:
        return False
    n = data.shape[0] if data.dim() else 1
    shapes = output.dim() > 0 and output.shape[1:] == data.shape[1:] and output.shape[0] % n == 0
    posterior = mean.dim() > 1 and mean.shape[0] == n and mean.shape == logvar.shape
    free = _get_current_dispatch_mode() is None and not Op.transformed() and why_not() is None
    return shapes and posterior and data.dim() == output.dim() and free


class _Step(torch.autograd.Function):
    """`elbo_step`, whose gradients are kept until they are asked for."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        results, gradients = elbo_step(*arguments)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*results[1:])
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if of_loss is None:
            return (None,) * 9
        wanted = ctx.needs_input_grad
        by = (
            None if kept is None or not wanted[place] else times(kept, of_loss)
            for kept, place in zip(ctx.saved_tensors, (0, 2, 3, 4), strict=True)
        )
        of_output, of_mean, of_logvar, of_output_logvar = by
        gradients = of_output, None, of_mean, of_logvar, of_output_logvar, None, None, None, None
        return once(gradients) if torch.is_grad_enabled() else gradients


def loss_and_terms(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    output_logvar: Tensor | None,
    likelihood: str,
    mean_of_rows: bool,
    beta: float,
    inplace: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, differentiable once, and its two terms; see `cpu.elbo_step`."""
    arguments = output, data, mean, logvar, output_logvar, likelihood, mean_of_rows, beta, inplace
    found: tuple[Tensor, Tensor, Tensor] = _Step.apply(*arguments)  # type: ignore[no-untyped-call]
    return found
