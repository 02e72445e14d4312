"""Peers that are PyTorch: an ordinary ``nn.Module``, eagerly, in channels_last, and compiled. Tensors in and out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import Case, inputs
from bench.models import is_convolutional, model
from bench.prepared import AbsentError, Prepared
from bench.verb_modules import verb_module

# The strongest combination of inductor's options for a CPU: weights as constants, packed; tuned products; calls in C++.
STRONGEST = {"freezing": True, "max_autotune": True, "cpp_wrapper": True}


def eager_peer(case: Case) -> Prepared:
    """Eager PyTorch under ``inference_mode``; ``generate`` draws with ``torch.randn``."""
    return _prepared(case, verb_module(case.model, case.verb))


def channels_last_peer(case: Case) -> Prepared:
    """Eager PyTorch, convolutions' weights and images in ``channels_last``."""
    if not is_convolutional(model(case.model).spec):
        raise AbsentError("no convolutions")
    return _prepared(case, verb_module(case.model, case.verb, torch.channels_last), torch.channels_last)


def compile_peer(case: Case) -> Prepared:
    """``torch.compile`` as it comes, for the case's exact shapes."""
    return _compiled(case, None)


def tuned_compile_peer(case: Case) -> Prepared:
    """``torch.compile`` with the STRONGEST options, for the case's exact shapes."""
    return _compiled(case, STRONGEST)


def _compiled(case: Case, options: dict[str, Any] | None) -> Prepared:
    compiled = torch.compile(verb_module(case.model, case.verb), dynamic=False, options=options)
    return compiled_before(_prepared(case, compiled))


def compiled_before(prepared: Prepared) -> Prepared:
    """Compiled outside the clock, by running once.

    Raises:
        AbsentError: it does not compile.
    """
    try:
        prepared.check()
    # No compiler or one that fails on this graph, both RuntimeErrors of private types; or its library does not load.
    except (RuntimeError, OSError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AbsentError(f"torch.compile failed: {reason}") from error
    return prepared


def forget_compiled() -> None:
    """Drop what is compiled: the limit of recompilations is one of each function, and a case adds two."""
    torch._dynamo.reset()


def _prepared(
    case: Case,
    run: nn.Module | Callable[..., Any],
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Prepared:
    x, z = inputs(case.model, case.rows)
    shape = z.shape
    given = _arguments(case, x.to(memory_format=memory_format) if x.ndim == 4 else x, z)
    check = torch.inference_mode()(lambda: run(*given))
    if case.verb != "generate":
        return Prepared(check, check)
    return Prepared(torch.inference_mode()(lambda: run(torch.randn(shape))), check)


def _arguments(case: Case, x: Tensor, z: Tensor) -> tuple[Tensor, ...]:
    """What the verb's module takes."""
    if case.verb == "interpolate":
        return z, z.flip(0)
    return (z,) if case.verb in ("generate", "decode") else (x,)
