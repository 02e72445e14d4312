"""Every op under PyTorch's tracers: schemas, shape rules, compile, export, and shapes that no machine holds."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastvae_kernels.case_rows import batch_size, result_rows, take_rows
from fastvae_kernels.cases import CASES
from tests.kernels.support import IMPLS, call, case_of, first_case, same_bits

FLOAT8 = torch.float8_e4m3fn
HUGE = 2**33
SEEN = [(op, impl) for op, impl in IMPLS if impl != "library"]  # which no tracer tells from the reference
TRACED = [(op, impl, next(iter(CASES[op]))) for op, impl in SEEN]
TRACED += [(op, impl, "e4m3") for op, impl in SEEN if "e4m3" in CASES[op]]


def registered(op: str, impl: str, case: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The registered op behind a public one, and the arguments that the public one called it with."""
    overload = getattr(torch.ops.fastvae, op).default
    calls: list[tuple[Any, ...]] = []

    class Recorder(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is overload:
                calls.append(args)
            return func(*args, **(kwargs or {}))

    class Tracing(TorchDispatchMode):
        """Under any mode: an eager call would not go through the dispatcher."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    with Recorder(), Tracing():
        call(op, impl, case_of(op, case))
    return overload, calls[0]


@pytest.mark.parametrize(("op", "impl", "case"), TRACED)
def test_opcheck(op: str, impl: str, case: str) -> None:
    """The whole of it, but its comparisons cannot read 8-bit floats; other tests compare those."""
    overload, arguments = registered(op, impl, case)
    checks = ["test_autograd_registration", "test_faketensor"]
    if op != "quantize_rows" and case != "e4m3":
        checks += ["test_schema", "test_aot_dispatch_dynamic"]
    torch.library.opcheck(overload, arguments, test_utils=checks)


@pytest.mark.parametrize(("op", "impl", "case"), TRACED)
def test_compiles_without_graph_breaks(op: str, impl: str, case: str) -> None:
    arguments = case_of(op, case)
    torch.compiler.reset()
    compiled = torch.compile(lambda: call(op, impl, arguments), fullgraph=True, backend="aot_eager")
    assert same_bits(compiled(), call(op, impl, arguments))


class Called(torch.nn.Module):
    """An op of the tensors among its arguments."""

    def __init__(self, op: str, impl: str, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.call = lambda tensors: call(op, impl, {**arguments, **tensors})

    def forward(self, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        results: tuple[Tensor, ...] = self.call(tensors)
        return results


@pytest.mark.parametrize(("op", "impl", "case"), TRACED)
def test_exports(op: str, impl: str, case: str) -> None:
    arguments = case_of(op, case)
    tensors = {k: v for k, v in arguments.items() if isinstance(v, Tensor)}
    program = torch.export.export(Called(op, impl, arguments), (tensors,))
    assert any(node.target is getattr(torch.ops.fastvae, op).default for node in program.graph.nodes)
    assert same_bits(program.module()(tensors), call(op, impl, arguments))


def on_meta(arguments: dict[str, Any]) -> dict[str, Any]:
    moved = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in arguments.items()}
    return {**moved, "device": torch.device("meta")} if "device" in arguments else moved


@pytest.mark.parametrize(("op", "case"), [(op, case) for op in CASES for case in CASES[op]])
def test_shape_rule_agrees_with_the_op(op: str, case: str) -> None:
    """On the meta device: the shape, dtype and strides that running the op gives."""
    arguments = case_of(op, case, torch.bfloat16)
    for fake, real in zip(call(op, "auto", on_meta(arguments)), call(op, "auto", arguments), strict=True):
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("op", CASES)
def test_shapes_beyond_32_bits(op: str) -> None:
    """One row repeated 2**33 times: as many results."""
    one = take_rows(op, first_case(op), slice(0, 1))
    many = dict(on_meta(one))
    if "n" in many:
        many["n"] = HUGE
    rowless = take_rows(op, one, slice(0, 0))
    for name, v in one.items():
        if isinstance(v, Tensor) and v.shape != rowless[name].shape:
            many[name] = many[name].expand(HUGE, *v.shape[1:])
    assert batch_size(op, many) == HUGE
    for result, single in zip(call(op, "auto", many), call(op, "auto", on_meta(one)), strict=True):
        assert result_rows(many, HUGE, result, slice(0, 1)).shape == single.shape
        assert HUGE in result.shape
