"""The plan itself: frozen data that passes rewrite and the runtime executes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fastvae.layers import Shape


@dataclass(frozen=True)
class Step:
    """One op: ``outputs = op(*inputs, **keywords, **attributes)``.

    ``op`` names an op of ``fastvae_kernels``, one of the executor's own (add, upsample, normalise, channels_last, the
    views reshape, join, split, pad, narrow and columns, and the steps of likelihoods: concat, log_softmax,
    add_log_total, less_total, expectation), ``kl``, the divergence that ``reparameterize`` gives with no draws, or
    ``norm_by_statistics``, a group norm whose statistics are given. ``inputs`` name buffers or weights of the plan;
    None where an optional operand is absent. ``keywords`` name those that the op takes by keyword, as ``linear`` does
    the residual it adds; ``attributes`` hold no tensors. An output that nothing reads is released at once.
    """

    op: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    keywords: Mapping[str, str] = field(default_factory=dict)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of all tensors it reads, buffers and weights, in the order of the op's parameters."""
        return (*(name for name in self.inputs if name is not None), *self.keywords.values())


@dataclass(frozen=True)
class Plan:
    """A verb of one model.

    ``inputs`` are the buffers the caller provides, ``outputs`` those handed back. ``shapes`` gives every
    buffer's shape per row; all have a leading row axis at run time.
    """

    verb: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    weights: Mapping[str, Tensor]
    shapes: Mapping[str, Shape]

    def uses(self) -> Counter[str]:
        """How often each buffer is read, by a step or as an output of the plan."""
        reads = Counter(name for step in self.steps for name in step.reads if name in self.shapes)
        return reads + Counter(self.outputs)

    def last_reads(self) -> dict[str, int]:
        """For each buffer that is not an output, the index of the last step that reads it, or else writes it."""
        last: dict[str, int] = {}
        for index, step in enumerate(self.steps):
            last.update({name: index for name in (*step.outputs, *step.reads) if name in self.shapes})
        return {name: index for name, index in last.items() if name not in self.outputs}

    def maker(self, name: str) -> int | None:
        """The index of the step that writes the buffer ``name``; None for an input or a weight."""
        return next((index for index, step in enumerate(self.steps) if name in step.outputs), None)
