"""The verbs of the reference model, whole, as tools/gpu_check.py measures them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from gpu_timing import DEVICE, DTYPES, Work, graphed
from gpu_work import COUNT, EDGE, IMPL, Maker, compiled
from torch import Tensor

import fastvae_kernels as k
from bench.roofline import step_cost, step_prediction, verb_bytes
from bench.workloads import VERBS, WIDTHS, Mlp, make_mlp, steps
from fastvae_kernels.parts import part_of


def verb_work(verb: str, precision: str) -> Work:
    """A verb of the reference model as a CUDA graph of fused ops; its peers have graphs too."""
    fused, eager = VERBS[verb].fused, VERBS[verb].eager
    dtype = DTYPES[precision]
    model = make_mlp(str(DEVICE), dtype, "tf32" if precision == "tf32" else "ieee")
    x = torch.rand(COUNT, WIDTHS[0], device=DEVICE).to(dtype)
    wide, wide_x = make_mlp(str(DEVICE), torch.float32), x.float()
    fast = compiled(lambda x: eager(model, x))

    def run_as(impl: str) -> Callable[..., Any]:
        return lambda op, **arguments: getattr(k, op)(**arguments, impl=impl)

    def check() -> list[tuple[Tensor, Tensor]]:
        exact = fused(rounded_weights(model), x[:EDGE].float(), run_as("reference"))
        return [(fused(model, x, run_as(IMPL))[:EDGE], exact)]

    found = steps(verb, COUNT, dtype, model.precision)
    predicted = sum(step_prediction(step, part_of(DEVICE), precision) for step in found)
    peers: dict[str, Callable[[], Any]] = {
        f"eager {precision}": graphed(lambda: eager(model, x)),
        "eager fp32": graphed(lambda: eager(wide, wide_x)),
        "torch.compile": lambda: fast(x),
    }
    work = sum(step_cost(step).flops for step in found)
    moved = verb_bytes(verb, COUNT, precision)
    return Work(
        verb,
        str(COUNT),
        precision,
        graphed(lambda: fused(model, x, run_as(IMPL))),
        peers,
        check,
        work,
        moved,
        predicted,
    )


def rounded_weights(model: Mlp) -> Mlp:
    """The same weights in float32."""

    def wide(layers: tuple[tuple[Tensor, Tensor], ...]) -> tuple[tuple[Tensor, Tensor], ...]:
        return tuple((w.float(), b.float()) for w, b in layers)

    return replace(
        model,
        encoder=wide(model.encoder),
        mean=wide((model.mean,))[0],
        logvar=wide((model.logvar,))[0],
        decoder=wide(model.decoder),
        precision="ieee",
    )


def verbs() -> Iterator[tuple[str, Maker]]:
    """Every verb by name and precision."""
    for precision in ("bf16", "ieee"):
        for verb in ("score", "generate", "encode", "reconstruct"):
            yield f"{verb}-{precision}", lambda v=verb, p=precision: verb_work(v, p)
