"""Settings as they come out for one model on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastvae import noise
from fastvae.errors import UnsupportedError
from fastvae.model import Model, memory_bytes
from fastvae.plan import Target
from fastvae.runtime.choice import Choice
from fastvae.runtime.settings import (
    PRECISIONS,
    Settings,
    check_fp8,
    plan_target,
    resolve_device,
    resolve_implementation,
    resolve_precision,
)
from fastvae.runtime.side_by_side import Sharing


@dataclass(frozen=True)
class Resolved:
    """How a model is run.

    ``op_impl`` is the implementation of the ops outside plans (noise, reparameterization), which have no form in
    ONNX Runtime. ``compiled`` says that the compiled kernels may take plans of ``impl``'s, or steps,
    ``fits_images`` that images are cut into tiles where ``max_memory`` asks for it, and ``decodes_samples`` that
    samples are decoded from latents that no plan draws.
    """

    device: torch.device
    precision: str
    dtype: torch.dtype
    impl: str
    op_impl: str
    target: Target
    threads: int
    sharing: Sharing
    arena: bool
    graphs: bool
    batch_invariant: bool
    batch_size: int | None
    max_memory: int | None
    compiled: bool
    fits_images: bool
    decodes_samples: bool

    @property
    def output_dtype(self) -> torch.dtype:
        """Dtype of what verbs return: float64 in float64, else float32."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32


def resolve(settings: Settings, model: Model) -> Resolved:
    """What ``settings`` mean for ``model``.

    Raises:
        InputError: an unknown device, a batch size below 1, or a number of threads or bytes that is none.
        UnsupportedError: a precision or implementation that is unknown, or cannot run this model.
    """
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, model)
    invariant = settings.batch_invariant
    impl = resolve_implementation(settings.impl, device, precision, batch_invariant=invariant)
    if precision == "fp8":
        check_fp8(model.spec, device)
    threads = _threads(settings, impl)
    batch_size, max_memory = settings.batch_size, settings.max_memory
    if batch_size is not None:
        batch_size = noise.check_count("batch_size", batch_size, least=1)
    if max_memory is not None:
        max_memory = memory_bytes(max_memory)
    fits_images = max_memory is not None and model.spec.any_size
    return Resolved(
        device=device,
        precision=precision,
        dtype=PRECISIONS[precision],
        impl=impl,
        op_impl="auto" if impl == "onnxruntime" else Choice.of(impl).base,
        target=plan_target(impl, device),
        threads=threads,
        sharing=Sharing(threads, always=settings.batch_invariant),
        arena=settings.arena,
        graphs=settings.graphs,
        batch_invariant=settings.batch_invariant,
        batch_size=batch_size,
        max_memory=max_memory,
        compiled=settings.impl == "auto" and impl == "onnxruntime",
        fits_images=fits_images,
        decodes_samples=fits_images or bool(model.spec.mixtures()),
    )


def _threads(settings: Settings, impl: str) -> int:
    """Those of one call."""
    if settings.threads is None:
        return torch.get_num_threads()
    if impl != "onnxruntime":
        raise UnsupportedError("threads: only impl='onnxruntime' has its own; use torch.set_num_threads")
    return noise.check_count("threads", settings.threads, least=1, most=1024)
