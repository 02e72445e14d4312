"""Selects what can run, and makes Triton's interpreter multiply as hardware does, where a place shows in no bit.

And fast: of a kernel's calls of jitted functions, each looks through Triton's whole language for what to replace, which
takes longer than all they compute.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from fastvae_kernels.cpu import why_not


def _dot(builder: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
    """d + a @ b, the product rounded once from float64; the interpreter's own float32 BLAS depends on the place."""
    from triton.runtime import interpreter

    def wide(x: Any) -> Any:
        data = x.data
        if x.dtype.primitive_bitwidth == 8:
            data = interpreter._convert_float(data, x.dtype, interpreter.tl.float16, None).view(np.float16)
        return data.astype(np.float64)

    product = np.matmul(wide(a), wide(b)).astype(d.data.dtype)
    return interpreter.TensorHandle(product + d.data, d.dtype.scalar)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Implementations for CPUs have nothing to run on where tensors are on a GPU, and may not have been compiled."""
    if torch.cuda.is_available() or why_not() is not None:
        cpu = [item for item in items if getattr(item, "callspec", None) and item.callspec.params.get("impl") == "cpu"]
        config.hook.pytest_deselected(items=cpu)
        items[:] = [item for item in items if item not in cpu]


@pytest.fixture(scope="session", autouse=True)
def multiply_like_hardware() -> Iterator[None]:
    if torch.cuda.is_available():
        yield
        return
    from triton.runtime import interpreter

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpreterBuilder, "create_dot", _dot)
        # Looking after every sum of integers whether it overflowed costs a third of the time.
        quick = interpreter.InterpreterOptions(sanitize_overflow=False)
        patch.setattr(interpreter.interpreter_builder, "options", quick)
        yield


@pytest.fixture(scope="session", autouse=True)
def replace_the_language_once() -> Iterator[None]:
    """While a kernel runs, what its functions are written in is already replaced by the interpreter's."""
    if torch.cuda.is_available():
        yield
        return
    from triton.runtime import interpreter

    replace, language = interpreter._patch_lang, (interpreter.tl, interpreter.tl.core)

    def once(fn: Any) -> Any:
        if any(interpreter.tl.core.is_builtin(module.load) for module in language):
            return replace(fn)
        return interpreter._LangPatchScope()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", once)
        yield
