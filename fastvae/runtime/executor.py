"""Run one plan, step by step, on a batch of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastvae_kernels
from fastvae import noise
from fastvae.errors import UnsupportedError
from fastvae.plan import Plan, Step, plan_cost
from fastvae.runtime.batching import TILE, rows_that_fit
from fastvae.runtime.choice import Choice
from fastvae.runtime.head_ops import HEAD_OPS
from fastvae_kernels.reference.activation import activate_
from fastvae_kernels.reference.norm_apply import written


@dataclass(frozen=True)
class Draw:
    """Where a plan that draws its own prior noise starts: ``rows`` rows from index ``start`` of ``seed``."""

    rows: int
    seed: int
    start: int
    device: torch.device
    dtype: torch.dtype


class Executor:
    """A plan bound to an implementation of its ops, or to several: ``impl`` is text as :class:`Choice` reads it.

    ``rows_that_fit`` is how many rows of it make a batch that stays in the caches, ``tile_rows`` how many a tile of
    batch-invariant mode has.

    Raises:
        UnsupportedError: ``impl`` cannot run one of the plan's ops; the message names it.
    """

    def __init__(self, plan: Plan, *, impl: str, device: torch.device, dtype: torch.dtype) -> None:
        self.plan = plan
        self._impl = Choice.of(impl)
        self._last_reads = plan.last_reads()
        self.rows_that_fit = rows_that_fit(plan_cost(plan, element_bytes=dtype.itemsize).peak_bytes)
        self.tile_rows = min(TILE, self.rows_that_fit)
        ops = {op for step in plan.steps for op in OPS_BEHIND.get(step.op, (step.op,))}
        for op in ops - OWN_OPS.keys():
            try:
                fastvae_kernels.resolve_impl(op, self._impl[op], device, dtype)
            except fastvae_kernels.UnavailableError as error:
                raise UnsupportedError(f"impl: {error}") from error

    def __call__(
        self, inputs: Mapping[str, Tensor], draw: Draw | None = None, out: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """The plan's outputs for ``inputs``, each of shape (rows, *shape of a row), copied into ``out`` where given.

        Buffers are released after their last read, so that memory peaks where ``plan_cost`` says; ``inputs`` are the
        caller's, and stay.
        """
        buffers = dict(inputs)
        for index, step in enumerate(self.plan.steps):
            operands = [self._operand(name, buffers) for name in step.inputs]
            keywords = {key: self._operand(name, buffers) for key, name in step.keywords.items()}
            results = self._run(step, operands, keywords, draw)
            buffers.update(zip(step.outputs, results, strict=True))
            for name in (*step.reads, *step.outputs):
                if self._last_reads.get(name) == index:
                    buffers.pop(name, None)
            del operands, keywords, results
        results = tuple(buffers[name] for name in self.plan.outputs)
        return results if out is None else tuple(to.copy_(part) for to, part in zip(out, results, strict=True))

    def _operand(self, name: str | None, buffers: Mapping[str, Tensor]) -> Tensor | None:
        if name is None:
            return None
        return buffers[name] if name in buffers else self.plan.weights[name]

    def _run(self, step: Step, operands: list[Any], keywords: dict[str, Any], draw: Draw | None) -> tuple[Tensor, ...]:
        if step.op in OWN_OPS:
            return OWN_OPS[step.op](*operands, **step.attributes)
        if step.op in DRAWING:
            return (self._drawn(step, operands, draw),)
        if step.op == "kl":
            mean, logvar = (x.flatten(1) for x in operands)
            return (
                fastvae_kernels.reparameterize(mean, logvar, seed=0, samples=0, impl=self._impl["reparameterize"])[1],
            )
        if step.op == "norm_by_statistics":
            return (self._norm_by_statistics(*operands, **step.attributes),)
        result = getattr(fastvae_kernels, step.op)(*operands, **keywords, **step.attributes, impl=self._impl[step.op])
        return result if isinstance(result, tuple) else (result,)

    def _norm_by_statistics(
        self,
        x: Tensor,
        statistics: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        groups: int,
        eps: float,
        block: int,
        **activation: Any,
    ) -> Tensor:
        """The group norm of images of which the statistics are there already."""
        affine = fastvae_kernels.norm_affine(
            statistics,
            weight,
            bias,
            pixels=x.shape[2:].numel(),
            block=block,
            groups=groups,
            eps=eps,
            impl=self._impl["norm_affine"],
        )
        return fastvae_kernels.norm_apply(x, affine, **activation, impl=self._impl["norm_apply"])

    def _drawn(self, step: Step, operands: list[Any], draw: Draw | None) -> Tensor:
        """The result of an op that draws the prior's noise itself."""
        if draw is None:
            raise AssertionError("a plan that draws noise needs a Draw")
        settings: dict[str, Any] = {
            "seed": draw.seed,
            "start": draw.start,
            "stream": noise.PRIOR,
            "impl": self._impl[step.op],
        }
        if step.op == "sample_normal":
            settings |= {"device": draw.device, "dtype": draw.dtype}
        result: Tensor = getattr(fastvae_kernels, step.op)(draw.rows, *operands, **step.attributes, **settings)
        return result


def _reshape(x: Tensor, *, shape: tuple[int, ...], channels_last: bool = False) -> tuple[Tensor, ...]:
    """Rows of another shape; ``channels_last`` for numbers in the order that images then have in memory."""
    if not channels_last:
        return (x.reshape(len(x), *shape),)
    if x.ndim == 4:
        return (x.permute(0, 2, 3, 1).reshape(len(x), *shape),)
    channels, height, width = shape
    return (x.reshape(len(x), height, width, channels).permute(0, 3, 1, 2),)


def _channels_last(x: Tensor) -> tuple[Tensor, ...]:
    """Images with their channels innermost in memory; strides say so of one channel too, where nothing is moved."""
    x = x.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = x.shape
    return (x.as_strided(x.shape, (channels * height * width, 1, channels * width, channels)),)


def _join(x: Tensor, condition: Tensor) -> tuple[Tensor, ...]:
    """Append the condition to a flat row, or to an image as constant channels."""
    if x.ndim > 2:
        condition = condition[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return (torch.cat([x, condition.to(x.dtype)], dim=1),)


def _split(x: Tensor, *, layout: str) -> tuple[Tensor, ...]:
    """Mean and scale halves of a joint head, as views."""
    if layout == "interleaved":
        return x[:, 0::2], x[:, 1::2]
    half = x.shape[1] // 2
    return x[:, :half], x[:, half:]


def _pad(x: Tensor, *, columns: int) -> tuple[Tensor, ...]:
    """Append zero columns to flat rows."""
    return (torch.nn.functional.pad(x, (0, columns)),)


def _narrow(x: Tensor, *, columns: int) -> tuple[Tensor, ...]:
    """The first columns of flat rows, as a view."""
    return (x[:, :columns],)


def _add(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The sum of two buffers of one shape."""
    return (x + y,)


def _upsample(x: Tensor, *, factor: int) -> tuple[Tensor, ...]:
    """Every pixel ``factor`` times in each direction."""
    return (torch.nn.functional.interpolate(x, scale_factor=factor, mode="nearest"),)


def _normalise(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    centre: Tensor,
    *,
    activation: str = "identity",
    alpha: float | None = None,
    out_scale: float | None = None,
) -> tuple[Tensor, ...]:
    """act((x - centre) * scale + shift), each a row's number per channel: a group norm of known statistics.

    With ``out_scale`` in 8 bits, as :func:`fastvae_kernels.norm_apply` has it.
    """
    scale, shift, centre = (parameter[:, :, None, None] for parameter in (scale, shift, centre))
    y = (x.to(scale.dtype) - centre).mul_(scale).add_(shift)
    return (written(activate_(y, activation, alpha), x, out_scale),)


# Steps that are not ops of fastvae_kernels themselves but a way to call some.
OPS_BEHIND = {"kl": ("reparameterize",), "norm_by_statistics": ("norm_affine", "norm_apply")}

# Ops whose first operand is the number of rows, and which take the noise's seed and start from the run.
DRAWING = ("sample_normal", "linear_prior")

OWN_OPS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "add": _add,
    "channels_last": _channels_last,
    "reshape": _reshape,
    "join": _join,
    "split": _split,
    "pad": _pad,
    "narrow": _narrow,
    "normalise": _normalise,
    "upsample": _upsample,
    **HEAD_OPS,
}
