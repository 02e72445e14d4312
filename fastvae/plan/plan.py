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
    """One op: ``outputs = op(*inputs, **attributes)``.

    ``op`` names an op of ``fastvae_kernels``, one of the executor's own (add, and the views reshape, join, split, pad,
    narrow), or ``kl``, the divergence that ``reparameterize`` gives with no draws. ``inputs`` name buffers or weights
    of the plan, in the order of the op's parameters; None where an optional operand is absent. Those of ``linear`` are
    x, weight, bias and, where it adds one, the residual.
    """

    op: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


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
        reads = Counter(name for step in self.steps for name in step.inputs if name in self.shapes)
        return Counter({str(name): count for name, count in reads.items()}) + Counter(self.outputs)

    def last_reads(self) -> dict[str, int]:
        """For each buffer that is not an output, the index of the last step that reads it."""
        last: dict[str, int] = {}
        for index, step in enumerate(self.steps):
            last.update({name: index for name in step.inputs if name in self.shapes and name is not None})
        return {name: index for name, index in last.items() if name not in self.outputs}
