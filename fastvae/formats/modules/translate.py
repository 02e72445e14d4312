"""An encoder and a decoder, each a module, as one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastvae.errors import InputError, UnsupportedError, WeightFormatError
from fastvae.formats.modules._asked import LikelihoodArgument, asked_for
from fastvae.formats.modules._heads import HeadBuilder
from fastvae.formats.modules._likelihoods import Decoding, decoding
from fastvae.formats.modules._outputs import Scale, halves, needed, pair_of
from fastvae.formats.modules._trace import Traced, trace
from fastvae.formats.modules._values import Stacker, Value
from fastvae.model import Model
from fastvae.spec import DTYPE_BYTES, DType, ModelSpec


@dataclass(frozen=True)
class Translation:
    """A model in float64, and how it came about.

    Attributes:
        dtype: name of the dtype that the modules' own weights have.
        decoding: the decoder, and where its outputs must agree with the model's parameters.
        converts: whether encoder and decoder ask for a dtype by name, and so have a precision of their own.
    """

    model: Model
    dtype: DType
    decoding: Decoding
    converts: tuple[bool, bool]


def translate(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    likelihood: LikelihoodArgument,
    example: Tensor,
    latent: Tensor | None,
    parametrization: Scale,
    name: str,
) -> Translation:
    """The model that two modules, both in evaluation mode on the CPU, are.

    Args:
        example: rows as the encoder takes them, at least two, of any float dtype.
        latent: latents as the decoder takes them; None for zeros of the encoder's shape.
        parametrization: what the encoder's second output is.

    Raises:
        InputError: outputs or a likelihood that make no autoencoder.
        UnsupportedError: an operator, or an arrangement of them, that no spec can say.
    """
    shape = tuple(example.shape[1:])
    asked = asked_for(likelihood, shape)
    encoded = trace("encoder", encoder, example.to(dtype_of(encoder)))
    mean, scale = _pair(encoded, parametrization)
    if mean.shape != scale.shape:
        raise InputError(f"encoder: mean has rows of shape {mean.shape}, {parametrization} of {scale.shape}")
    if latent is None:
        latent = torch.zeros(len(example), *mean.shape)
    if tuple(latent.shape[1:]) != mean.shape:
        raise InputError(
            f"example_latent: expected rows of shape {mean.shape}, as the encoder makes them, got "
            f"{tuple(latent.shape[1:])}"
        )
    decoded = trace("decoder", decoder, latent.to(dtype_of(decoder)))
    try:
        encoder_stack, posterior = _builder(encoded).head(mean, scale, parametrization)
        state = encoded.weights.state | decoded.weights.state
        made = decoding(decoded.output, asked, _builder(decoded), shape, state)
        spec = ModelSpec(
            input_shape=shape,
            latent_shape=mean.shape,
            encoder=encoder_stack,
            posterior=posterior,
            decoder=made.stack,
            likelihood=made.likelihood,
            dtype="float64",
            name=name,
        )
    except WeightFormatError as error:
        raise UnsupportedError(f"the modules make no model that can be described: {error}") from error
    tensors = {**encoded.weights.tensors, **decoded.weights.tensors, **made.tensors}
    weights = {tensor: tensors[tensor].contiguous() for tensor in spec.tensors()}
    dtype: Any = str(torch.promote_types(dtype_of(encoder), dtype_of(decoder))).removeprefix("torch.")
    return Translation(Model(spec, weights), dtype, made, (encoded.converts, decoded.converts))


def _builder(traced: Traced) -> HeadBuilder:
    weights = traced.weights
    return HeadBuilder(traced.source, Stacker(weights.settle), weights.free_name(f"{weights.root}.head"))


def _pair(traced: Traced, scale: Scale) -> tuple[Value, Value]:
    """Mean and scale of the encoder as values; one tensor is both halves."""
    mean, second = pair_of(traced.output, scale, "encoder")
    if second is None:
        return halves(needed(mean, "encoder"), "encoder")
    return needed(mean, "encoder"), needed(second, "encoder")


def dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype of a module's first float parameter or buffer, float32 if it has none.

    Raises:
        UnsupportedError: one that no model has.
    """
    tensors = (*module.parameters(), *module.buffers())
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
    if str(dtype).removeprefix("torch.") not in DTYPE_BYTES:
        raise UnsupportedError(f"weights of dtype {dtype} are not supported; supported: {', '.join(DTYPE_BYTES)}")
    return dtype
