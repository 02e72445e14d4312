"""What runs a sweep's plan on a band: a session of ONNX Runtime, or the ops themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fastvae.plan import Plan
from fastvae.runtime.executor import Executor
from fastvae.runtime.ort import OnnxExecutor
from fastvae.runtime.tiling.executor import Run


def sessions(threads: int) -> Callable[[Plan], Run]:
    """A session for each sweep, which keeps no memory from one band to the next."""

    def bind(plan: Plan) -> Run:
        executor = OnnxExecutor(plan, threads=threads, arena=False, batch_invariant=False, any_size=True)

        def run(inputs: Mapping[str, Tensor], shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
            return executor(inputs, out=[torch.empty(shape) for shape in shapes])

        return run

    return bind


def references(impl: str, device: torch.device, dtype: torch.dtype) -> Callable[[Plan], Run]:
    """The ops of an implementation, one by one."""

    def bind(plan: Plan) -> Run:
        executor = Executor(plan, impl=impl, device=device, dtype=dtype)
        return lambda inputs, _: executor(inputs)

    return bind
