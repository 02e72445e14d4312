"""An encoder and a decoder, each a module, as one model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fastvae.errors import InputError, UnsupportedError, WeightFormatError
from fastvae.formats.modules._heads import HeadBuilder, logits
from fastvae.formats.modules._outputs import Scale, halves, needed, pair_of
from fastvae.formats.modules._trace import Traced, trace
from fastvae.formats.modules._values import Stacker, Value
from fastvae.layers import Shape, Stack
from fastvae.model import Model
from fastvae.spec import (
    DTYPE_BYTES,
    Bernoulli,
    DType,
    FixedGaussian,
    Likelihood,
    ModelSpec,
    PerDimensionGaussian,
    PredictedGaussian,
)

LikelihoodArgument: TypeAlias = Literal["bernoulli", "gaussian"] | float | Tensor | Bernoulli | FixedGaussian
ACCEPTED = (
    "'bernoulli', 'gaussian' (of variance 1, or of the one the decoder predicts), a variance, a tensor of "
    "log-variances, Bernoulli() or FixedGaussian(variance)"
)


@dataclass(frozen=True)
class Translation:
    """A model in float64, and how it came about.

    Attributes:
        dtype: name of the dtype that the modules' own weights have.
        took_sigmoid: whether the decoder ended in a sigmoid, which a Bernoulli likelihood does itself.
        converts: whether encoder and decoder ask for a dtype by name, and so have a precision of their own.
    """

    model: Model
    dtype: DType
    took_sigmoid: bool
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
    kind, log_variances = _likelihood(likelihood, shape)
    encoded = trace("encoder", encoder, example.to(dtype_of(encoder)))
    mean, scale = _pair(encoded, parametrization, "encoder", split=True)
    if scale is None:
        raise AssertionError("one tensor has been split into two")
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
        decoder_stack, output_head, took_sigmoid = _decoder(decoded, kind, shape)
        spec = ModelSpec(
            input_shape=shape,
            latent_shape=mean.shape,
            encoder=encoder_stack,
            posterior=posterior,
            decoder=decoder_stack,
            likelihood=output_head,
            dtype="float64",
            name=name,
        )
    except WeightFormatError as error:
        raise UnsupportedError(f"the modules make no model that can be described: {error}") from error
    tensors = {**encoded.weights.tensors, **decoded.weights.tensors}
    if log_variances is not None:
        tensors[PerDimensionGaussian().name] = log_variances
    weights = {tensor: tensors[tensor].contiguous() for tensor in spec.tensors()}
    dtype: Any = str(torch.promote_types(dtype_of(encoder), dtype_of(decoder))).removeprefix("torch.")
    return Translation(Model(spec, weights), dtype, took_sigmoid, (encoded.converts, decoded.converts))


def _builder(traced: Traced) -> HeadBuilder:
    weights = traced.weights
    return HeadBuilder(traced.source, Stacker(weights.settle), weights.free_name(f"{weights.root}.head"))


def _pair(traced: Traced, scale: Scale, owner: str, *, split: bool) -> tuple[Value, Value | None]:
    """Mean and scale as values; with ``split`` one tensor is both halves, else it is the mean alone."""
    mean, second = pair_of(traced.output, scale, owner)
    if second is not None:
        return needed(mean, owner), needed(second, owner)
    return halves(needed(mean, owner), owner) if split else (needed(mean, owner), None)


def _decoder(traced: Traced, kind: Likelihood | None, shape: Shape) -> tuple[Stack, Likelihood, bool]:
    """The decoder's stack, the likelihood and whether a sigmoid was taken off.

    Args:
        kind: None for a Gaussian of variance 1, or of the one that the decoder predicts.
        shape: of a row of data.
    """
    mean, logvar = _pair(traced, "logvar", "decoder", split=False)
    if mean.shape != shape:
        raise InputError(
            f"decoder: expected rows of the encoder's input shape, {shape}, found {mean.shape}; "
            "if only the shape differs, append torch.nn.Unflatten or Flatten"
        )
    builder = _builder(traced)
    if logvar is None:
        value = logits(mean, "decoder") if isinstance(kind, Bernoulli) else mean
        return builder.stack(value), kind or FixedGaussian(), value is not mean
    if kind is not None:
        raise InputError(
            f"likelihood: for a decoder that returns a mean and a log-variance it must be 'gaussian', not {kind.kind}"
        )
    if logvar.shape != shape:
        raise InputError(f"decoder: mean has rows of shape {shape}, logvar of {logvar.shape}")
    stack, head = builder.head(mean, logvar, "logvar")
    return stack, PredictedGaussian(head), False


def _likelihood(argument: object, shape: Shape) -> tuple[Likelihood | None, Tensor | None]:
    """What the caller asked for, None for a plain Gaussian, and a tensor of log-variances where that takes one.

    Raises:
        InputError: not one of the things ACCEPTED.
    """
    match argument:
        case np.ndarray():  # compares with text entry by entry
            pass
        case "bernoulli":
            return Bernoulli(), None
        case "gaussian":
            return None, None
        case Bernoulli() | FixedGaussian():
            return argument, None
        case bool() | str():
            pass
        case Real():
            try:
                variance = float(argument)
            except OverflowError:
                variance = math.inf
            if not 0 < variance < math.inf:
                raise InputError(f"likelihood: a variance must be positive and finite, got {argument!r:.80}")
            return FixedGaussian(variance), None
        case Tensor():
            return PerDimensionGaussian(), _log_variances(argument, shape)
        case PerDimensionGaussian():
            raise InputError("likelihood: for a variance per dimension pass its tensor of log-variances")
        case PredictedGaussian():
            raise InputError("likelihood: for a predicted variance pass 'gaussian', with a decoder that returns both")
    raise InputError(f"likelihood: expected {ACCEPTED}, got {argument!r:.80}")


def _log_variances(tensor: Tensor, shape: Shape) -> Tensor:
    """The tensor in float64 and of a row's shape."""
    fits = tensor.ndim <= len(shape) and all(
        own in (1, full) for own, full in zip(reversed(tensor.shape), reversed(shape), strict=False)
    )
    if not fits or not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
        raise InputError(
            f"likelihood: log-variances must be finite floats that broadcast to {shape}, got {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}"
        )
    return tensor.detach().cpu().double().expand(shape).contiguous()


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
