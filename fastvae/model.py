"""A model in memory: a spec, the weights it asks for and, where there is one, its card."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fastvae.errors import InputError, WeightMismatchError
from fastvae.layers import BatchNorm, Residual, Shape, Stack, leaves, stack_shape
from fastvae.priors import check_mixture
from fastvae.spec import DTYPE_BYTES, ModelSpec
from fastvae.spec_json import spec_to_json

DEFAULT_MAX_MEMORY = 16 * 2**30
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True)
class Model:
    """A ModelSpec and its weights, by the names the spec gives them.

    ``card`` is free text about where the weights come from (data, licence, command, seed, results).
    """

    spec: ModelSpec
    weights: Mapping[str, Tensor]
    card: Mapping[str, str] = field(default_factory=dict)


def memory_bytes(max_memory: object) -> int:
    """The bytes that ``max_memory`` stands for: a number, or text such as ``"2GB"``, ``"1.5 GiB"`` or ``"512M"``.

    Raises:
        InputError: it is neither.
    """
    if isinstance(max_memory, int | float) and not isinstance(max_memory, bool) and 0 <= max_memory < math.inf:
        return int(max_memory)
    found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([KMGT]I?|)B?\s*", str(max_memory).upper(), re.ASCII)
    if not isinstance(max_memory, str) or found is None:
        raise InputError(
            f"max_memory: expected a number of bytes, or text such as '2GB' or '1.5GiB', got {max_memory!r:.80}"
        )
    return int(float(found[1]) * UNITS[found[2]])


def check_model(
    model: Model,
    *,
    source: str,
    cast: bool = False,
    allow_nonfinite: bool = False,
    max_memory: int = DEFAULT_MAX_MEMORY,
    tiled: bool = False,
) -> Model:
    """The model, once its weights are known to be exactly what its spec asks for.

    Args:
        model: spec and weights as a format's reader found them.
        source: the file or folder to name in messages.
        cast: convert weights of another dtype to the spec's instead of refusing them.
        allow_nonfinite: accept NaN and Inf weights.
        max_memory: most bytes the weights and one row's activations may take.
        tiled: of a model for images of any size count the weights alone, for images are cut into tiles.

    Raises:
        WeightMismatchError: a tensor is missing, unexpected, of another shape or dtype, holds NaN or Inf, or
            no prior; or the spec asks for more memory than ``max_memory``.
    """
    spec = model.spec
    check_memory(spec, source=source, max_memory=max_memory, tiled=tiled)
    needed = spec.tensors()
    missing, unexpected = needed.keys() - model.weights.keys(), model.weights.keys() - needed.keys()
    if missing or unexpected:
        raise WeightMismatchError(
            f"{source}: the spec needs {len(needed)} tensors; missing: {_names(missing)}; "
            f"unexpected: {_names(unexpected)}"
        )
    dtype: torch.dtype = getattr(torch, spec.dtype)
    weights = {}
    for name, shape in needed.items():
        weight = model.weights[name]
        if tuple(weight.shape) != shape:
            raise WeightMismatchError(
                f"{source}: tensor {name!r} has shape {tuple(weight.shape)}, the spec needs {shape}"
            )
        if weight.dtype != dtype and not (cast and weight.dtype.is_floating_point):
            found = str(weight.dtype).removeprefix("torch.")
            floating = weight.dtype.is_floating_point
            raise WeightMismatchError(
                f"{source}: tensor {name!r} is {found}, the spec declares {spec.dtype}; "
                + ("pass cast=True (--cast) to convert" if floating else "only floats can be weights")
            )
        if not allow_nonfinite and not bool(torch.isfinite(weight).all()):
            raise WeightMismatchError(
                f"{source}: tensor {name!r} holds NaN or Inf; pass allow_nonfinite=True (--allow-nonfinite) to load it "
                "all the same"
            )
        weights[name] = weight.to(dtype)
    for norm in [layer for stack in spec.stacks() for layer in leaves(stack) if isinstance(layer, BatchNorm)]:
        if bool((weights[f"{norm.name}.running_var"].double() + norm.eps <= 0).any()):
            raise WeightMismatchError(
                f"{source}: tensor '{norm.name}.running_var' holds variances that are not positive"
            )
    for mixture in spec.mixtures():
        check_mixture(mixture, weights, source)
    return Model(spec, weights, model.card)


def fingerprint(model: Model) -> str:
    """SHA-256 of a model's spec and weights, whatever its name and card say, in hexadecimal."""
    digest = hashlib.sha256(spec_to_json(replace(model.spec, name="")).encode())
    for name in sorted(model.weights):
        weight = model.weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_memory(spec: ModelSpec, *, source: str, max_memory: int, tiled: bool = False) -> None:
    """Refuse a spec whose weights and widest activations of one row exceed ``max_memory`` bytes.

    With ``tiled``, activations of a model for images of any size do not count.

    Raises:
        WeightMismatchError: it does; nothing has been allocated.
    """
    weights = sum(math.prod(shape) for shape in spec.tensors().values())
    encoded = stack_shape(spec.encoder, spec.encoder_input_shape)
    decoded = stack_shape(spec.decoder, spec.decoder_input_shape)
    ways = [(spec.encoder_input_shape, spec.encoder), (spec.decoder_input_shape, spec.decoder)]
    ways += [(encoded, stack) for stack in spec.posterior.stacks()]
    ways += [(decoded, stack) for stack in spec.likelihood.stacks()]
    widest = max(_widest(stack, shape) for shape, stack in ways)
    held = 0 if tiled and spec.any_size else 2 * widest
    needed = (weights + held) * DTYPE_BYTES[spec.dtype]
    if needed > max_memory:
        raise WeightMismatchError(f"{source}: the spec asks for {needed:,} bytes, more than max_memory={max_memory:,}")


def _widest(stack: Stack, shape: Shape) -> int:
    """Most elements of one row's activations in ``stack``, with what a residual holds for its shortcut."""
    widest = math.prod(shape)
    for layer in stack:
        if isinstance(layer, Residual):
            inside = max(_widest(layer.body, shape), _widest(layer.shortcut, shape))
            widest = max(widest, math.prod(shape) + inside)
        shape = layer.output_shape(shape)
        widest = max(widest, math.prod(shape))
    return widest


def _names(names: set[str]) -> str:
    shown = ", ".join(map(repr, sorted(names)[:5]))
    return (shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "none"
