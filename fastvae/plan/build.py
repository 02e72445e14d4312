"""From a model and a verb to the plan that is run: translated layer by layer, then improved by the passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fastvae.model import Model
from fastvae.plan.passes import (
    FUSED_PASSES,
    IMAGE_PASSES,
    PASSES,
    align_linear,
    cast,
    fuse_pixels,
    merge_heads,
    rescale,
    use_tf32,
)
from fastvae.plan.plan import Plan
from fastvae.plan.verbs import translate

# What runs a plan: the ops' PyTorch references, an ONNX graph, or Triton kernels where an op has one.
Target: TypeAlias = Literal["reference", "onnx", "triton"]


def build_plan(
    model: Model,
    verb: str,
    *,
    target: Target = "reference",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    batch_invariant: bool = False,
    tf32: bool = False,
    largest: Mapping[str, float] | None = None,
    share: Callable[[Tensor], Tensor] | None = None,
) -> Plan:
    """The optimised plan of one verb; with ``batch_invariant`` in a form whose row bits depend on the row alone.

    ``target`` is what will run it. For ``triton``, ops that span several layers (``gaussian_head``, ``bottleneck``,
    ``linear_score``, ``conv_score``, ``linear_prior``) replace those layers: their references are no faster than the
    layers, their kernels are. In batch-invariant mode they do not, because each layer keeps the form that is known to
    be so. Images keep their channels innermost there, see ``choose_layout``. For ``onnx``, heads stay products of
    their own: splitting a joint one costs a copy where views cannot be handed on.

    ==============  =====================  =======================================================
    verb            inputs                 outputs
    ==============  =====================  =======================================================
    encode          x                      mean, logvar of the posterior
    embed           x                      mean
    decode          z                      output, the mean of p(x|z)
    parameters      z                      logits; or the mean of x, and its log-variance if predicted
    generate        (seed, start)          output
    reconstruct     x                      output, decoded from the posterior mean
    score           z, x                   nll, -log p(x|z)
    squared_error   z, x                   squared_error, summed over a row
    impute          z, x, mask             nll over the entries where mask is True; output
    kl              x                      kl, of the posterior to the prior
    elbo            x                      nll at the posterior mean; kl
    distance        x                      squared_error at the posterior mean
    ==============  =====================  =======================================================

    A conditional model's plans take ``condition`` as well. With ``tf32`` dense layers multiply in
    that precision. ``largest`` are magnitudes of this plan's buffers, of which those too large for float16 are stored
    divided, see ``rescale``. ``share`` lets plans hold equal weights once, see ``cast``.
    ``encode_scaled``, ``embed_scaled`` and ``decode_scaled`` give and take latents scaled by ``spec.latent_scaling``.
    ``decode_uint8``, ``decode_scaled_uint8``, ``generate_uint8`` and ``reconstruct_uint8`` give, instead of the output,
    pixels: its bytes, images with their channels last; and nan, True for a row that has one.

    Raises:
        UnsupportedError: an unknown verb, a scaled one of a model that has no numbers to scale by, or bytes of a model
            that does not say which values are black and white; ``kl`` or ``elbo`` of a model whose prior is no N(0, I),
            or ``generate`` where z is not drawn from one.
    """
    plan = translate(model, verb)
    for improve in _passes(target, batch_invariant):
        plan = improve(plan)
    plan = use_tf32(plan) if tf32 else plan
    plan = rescale(plan, largest) if largest else plan
    return cast(plan, dtype=dtype, device=device, share=share, innermost=target == "triton")


def _passes(target: Target, batch_invariant: bool) -> tuple[Callable[[Plan], Plan], ...]:
    passes = {
        "reference": (*PASSES, fuse_pixels),  # or bytes were of means rounded to the dtype, those of kernels not
        "onnx": tuple(improve for improve in PASSES if improve is not merge_heads),
        "triton": (*PASSES, *IMAGE_PASSES, *(() if batch_invariant else FUSED_PASSES)),
    }[target]
    return (*passes, align_linear) if batch_invariant else passes
