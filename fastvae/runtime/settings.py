"""Settings: how a caller wants a model run, and what that means for this model on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch

import fastvae_kernels
from fastvae.errors import InputError, UnsupportedError
from fastvae.layers import GroupNorm, Layer, Residual, Stack
from fastvae.model import Model
from fastvae.plan import Target
from fastvae.runtime.choice import Choice
from fastvae.runtime.ort import why_not
from fastvae.spec import ModelSpec

# The dtype of each precision; tf32 is float32 but for the operands of dense products, fp8 bfloat16 but for those of
# convolutions after group norms.
PRECISIONS = {
    "ieee": torch.float32,
    "tf32": torch.float32,
    "float64": torch.float64,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.bfloat16,
}

logger = logging.getLogger("fastvae")


@dataclass(frozen=True)
class Settings:
    """How to run a model; see :func:`fastvae.load` for the meaning of each.

    ``scaled_latents`` is on or off here. ``graphs`` is not there: False runs plans on a GPU without CUDA graphs, to
    compare.
    """

    device: str = "auto"
    precision: str = "auto"
    impl: str = "auto"
    batch_size: int | None = None
    batch_invariant: bool = False
    threads: int | None = None
    arena: bool = True
    max_memory: int | str | None = None
    graphs: bool = True
    scaled_latents: bool = False


def resolve_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is a GPU where there is one. InputError for one PyTorch does not see."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device: expected 'auto', 'cpu' or 'cuda[:n]', got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device: expected 'auto', 'cpu' or 'cuda[:n]', got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device: {name!r} is not there; PyTorch sees {torch.cuda.device_count()} CUDA devices")
    return device


def resolve_precision(name: str, model: Model) -> str:
    """One of PRECISIONS, else UnsupportedError; ``auto`` is ieee, or float64 for float64 weights."""
    if name == "auto":
        return "float64" if model.spec.dtype == "float64" else "ieee"
    if not isinstance(name, str) or name not in PRECISIONS:
        accepted = ", ".join(map(repr, ("auto", *PRECISIONS)))
        raise UnsupportedError(f"precision: {name!r} is not supported; accepted: {accepted}")
    return name


def check_fp8(spec: ModelSpec, device: torch.device) -> None:
    """Refuse 8 bits where nothing would multiply in them.

    Raises:
        UnsupportedError: a model without group norms, or a GPU without e4m3.
    """
    if not any(isinstance(layer, GroupNorm) for layer in _layers((*spec.encoder, *spec.decoder))):
        raise UnsupportedError(
            "precision: 'fp8' is for convolutions after group norms, and this model has none; use 'bf16'"
        )
    if device.type == "cuda":
        try:
            fastvae_kernels.resolve_impl("conv2d", "triton", device, torch.float8_e4m3fn)
        except fastvae_kernels.UnavailableError as error:
            raise UnsupportedError(f"precision: 'fp8' cannot run: {error}; use 'bf16'") from error


def _layers(stack: Stack) -> Iterator[Layer]:
    """Those of a stack, residual blocks opened."""
    for layer in stack:
        yield layer
        if isinstance(layer, Residual):
            yield from _layers((*layer.body, *layer.shortcut))


def resolve_implementation(name: str, device: torch.device, precision: str, *, batch_invariant: bool = False) -> str:
    """The implementation of plans; ``auto`` stays so on a GPU, and on a CPU is ONNX Runtime, or the reference.

    So it does where ops are named: those plans run op by op.

    Raises:
        UnsupportedError: what is no :class:`Choice`, or cannot run here.
    """
    choice = Choice.of(name)
    if choice.ops:
        choice.check(device, batch_invariant=batch_invariant)
        return str(choice)
    reason = why_not(device, precision)
    if name == "onnxruntime" and reason:
        raise UnsupportedError(f"impl: 'onnxruntime' cannot run: {reason}")
    if name != "auto":
        return name
    if device.type == "cuda":
        logger.info("impl='auto' on %s: triton where an op has a kernel, else reference", device)
        return name
    chosen = "reference" if reason else "onnxruntime"
    logger.info("impl='auto' on %s: %s%s", device, chosen, f" ({reason})" if reason else "")
    return chosen


def plan_target(impl: str, device: torch.device) -> Target:
    """What plans are built for, for a resolved implementation."""
    if impl == "onnxruntime":
        return "onnx"
    base = Choice.of(impl).base
    on_kernels = base == "triton" or (base == "auto" and device.type == "cuda")
    return "triton" if on_kernels else "reference"
