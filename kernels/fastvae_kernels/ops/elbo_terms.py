"""The op behind `elbo_loss`: reconstruction and divergence over a batch, and what gradients there are to them."""

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..cpu import divergence_gradients
from ..dispatch import resolve_impl
from ..layout import empty_rows
from .registration import Op, register
from .scores import accumulated

__all__ = ["elbo_terms", "once", "times"]

_TWICE = (
    "elbo_loss is differentiable once: its gradient is computed with its value; for higher derivatives write the loss "
    "in PyTorch's own operations"
)


@register("elbo_loss")
def elbo_terms(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
    reduction: str,
    by_dimension: bool,
    keep: bool,
    keep_logvar: bool,
    inplace: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reconstruction, kl, and what is kept of the first's gradients by output and output_logvar, or nothing.

    inplace: the latter may take their memory; never through the dispatcher, to which the op changes no argument.
    """
    widest = torch.promote_types(output.dtype, mean.dtype)
    resolved = resolve_impl("elbo_loss", impl, output.device, widest)
    settings = output, data, mean, logvar, likelihood, output_logvar, mask, reduction, by_dimension
    of_output = of_logvar = None
    if resolved == "cpu":
        from ..cpu import elbo_loss as on_cpu

        reconstruction, kl, of_output, of_logvar = on_cpu(*settings, keep, keep_logvar, inplace)
    elif resolved == "triton":
        from ..triton.elbo_loss import elbo_loss as in_triton

        reconstruction, by_row = in_triton(*settings)
        kl = reference.divergence(mean, logvar, by_dimension) if by_row is None else by_row
    else:
        reconstruction, kl = reference.elbo_loss(*settings)
    kept = (output.new_empty(0) if g is None else g for g in (of_output, of_logvar))
    return reconstruction, kl, *kept  # type: ignore[return-value]


@elbo_terms.register_fake
def _(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
    reduction: str,
    by_dimension: bool,
    keep: bool,
    keep_logvar: bool,
    inplace: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = output.shape[:1] if reduction == "none" else ()
    kl = (mean.shape[1:].numel(),) if by_dimension else mean.shape[:1]
    of_logvar = None if output_logvar is None or not keep_logvar else _logvar_gradient(output, output_logvar)
    return (
        output.new_empty(rows, dtype=accumulated(output)),
        mean.new_empty(kl, dtype=accumulated(mean)),
        empty_rows(output, output.dtype)[1] if keep else output.new_empty(0),
        output.new_empty(0) if of_logvar is None else of_logvar,
    )


def _logvar_gradient(output: Tensor, output_logvar: Tensor) -> Tensor:
    """An uninitialised gradient of output_logvar, laid out as output or its rows are."""
    if output_logvar.dim() == 0:
        return torch.empty_like(output_logvar)
    return empty_rows(output, output_logvar.dtype, shared=output_logvar.dim() < output.dim())[1]


@register("elbo_loss_backward")
def _reconstruction_gradient(
    weight: Tensor,
    output: Tensor,
    data: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
    wants_logvar: bool,
    impl: str,
) -> tuple[Tensor, Tensor]:
    """The gradients by output and, if wanted, output_logvar of Σ weight · score; weight [] or [rows]."""
    resolved = resolve_impl("elbo_loss", impl, output.device, output.dtype)
    if resolved == "cpu":
        from ..cpu import elbo_loss_backward as implementation
    elif resolved == "triton":
        from ..triton.elbo_loss import elbo_loss_backward as implementation
    else:
        implementation = reference.elbo_loss_backward
    of_output, of_logvar = implementation(weight, output, data, likelihood, output_logvar, mask, wants_logvar)
    return of_output, output.new_empty(0) if of_logvar is None else of_logvar


@_reconstruction_gradient.register_fake
def _(
    weight: Tensor,
    output: Tensor,
    data: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
    wants_logvar: bool,
    impl: str,
) -> tuple[Tensor, Tensor]:
    of_logvar = None if output_logvar is None or not wants_logvar else _logvar_gradient(output, output_logvar)
    return empty_rows(output, output.dtype)[1], output.new_empty(0) if of_logvar is None else of_logvar


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    o, data, mean, logvar, likelihood, output_logvar, mask, reduction, by_dimension, keep, _, _, impl = inputs
    kept = output[2:] if keep else (None, None)
    # Where the gradient is kept, backward reads neither output nor data: they may be freed.
    again = (None, None, None, None) if keep else (o, data, output_logvar, mask)
    ctx.save_for_backward(mean, logvar, *again, *kept)
    ctx.settings = likelihood, reduction, by_dimension, keep, impl, o.shape[0]
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)  # else what is kept would be handed a gradient of zeros as large as itself


def _backward(ctx: Any, of_reconstruction: Tensor | None, of_kl: Tensor | None, *_: Any) -> tuple[Any, ...]:
    mean, logvar, output, data, output_logvar, mask, kept, kept_logvar = ctx.saved_tensors
    likelihood, reduction, by_dimension, keep, impl, rows = ctx.settings
    by_output, _, by_mean, by_logvar, _, by_output_logvar, *_ = ctx.needs_input_grad
    of_output = of_output_logvar = of_mean = of_logvar = None
    if of_reconstruction is None:
        pass
    elif keep:
        of_output = times(kept, of_reconstruction) if by_output else None
        of_output_logvar = times(kept_logvar, of_reconstruction) if by_output_logvar else None
    elif by_output or by_output_logvar:
        weight = of_reconstruction / rows if reduction == "mean" else of_reconstruction
        settings = output, data, likelihood, output_logvar, mask, by_output_logvar, impl
        of_output, of_output_logvar = _reconstruction_gradient(weight, *settings)
        of_output_logvar = of_output_logvar if by_output_logvar else None
    if of_kl is not None and (by_mean or by_logvar):
        of_mean, of_logvar = _divergence_gradients(mean, logvar, of_kl, by_dimension, impl)
    gradients = of_output, None, of_mean, of_logvar, None, of_output_logvar, *[None] * 7
    return once(gradients) if torch.is_grad_enabled() else gradients


elbo_terms.register_autograd(_backward, _setup_context)


def times(kept: Tensor, factor: Tensor) -> Tensor:
    """`kept` times a factor, or one for each row; itself where that is plainly 1, as it is for a loss as it stands.

    Not where the graph is kept for another backward: whoever gets a gradient may write into it.
    """
    if factor.dim():
        return kept * factor.to(kept.dtype).view(-1, *[1] * (kept.dim() - 1))
    if kept.is_cuda or torch.compiler.is_compiling() or Op.traced((kept, factor)):
        return kept * factor
    again = torch._C._autograd._get_current_graph_task_keep_graph()
    return kept if factor.item() == 1 and not again else kept * factor


def _divergence_gradients(
    mean: Tensor, logvar: Tensor, of_kl: Tensor, by_dimension: bool, impl: str
) -> tuple[Tensor, Tensor]:
    """Those of Σ weight · KL: weight · mean and weight · ½ expm1(logvar), which saturates: 0 · inf cannot occur.

    of_kl: the weights of rows [n] or, by dimension, of the means over rows [latent].
    """
    tracing = torch.compiler.is_compiling() or Op.traced((mean, logvar, of_kl))
    if not by_dimension and not tracing and resolve_impl("elbo_loss", impl, mean.device, mean.dtype) == "cpu":
        return divergence_gradients(mean, logvar, of_kl)
    shape = [1 if by_dimension else -1, *(mean.shape[1:] if by_dimension else [1] * (mean.dim() - 1))]
    weight = (of_kl / mean.shape[0] if by_dimension else of_kl).view(shape)
    acc = accumulated(mean)
    excess = torch.expm1(logvar.to(acc)).clamp_max(torch.finfo(acc).max)
    return (mean.to(acc) * weight).to(mean.dtype), (excess * (weight * 0.5)).to(logvar.dtype)


class _Once(torch.autograd.Function):
    """Hands gradients on; their own gradient is an error."""

    @staticmethod
    def forward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.view_as(gradient) for gradient in gradients)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise NotImplementedError(_TWICE)


def once(gradients: tuple[Any, ...]) -> tuple[Any, ...]:
    """The gradients, which say so if they are to be differentiated again."""
    tensors = [g.detach().requires_grad_() for g in gradients if g is not None]
    guarded = iter(_Once.apply(*tensors)) if tensors else iter(())  # type: ignore[no-untyped-call]
    return tuple(None if g is None else next(guarded) for g in gradients)
