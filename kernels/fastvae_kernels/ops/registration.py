"""How an op is registered, and the short way to it when nobody is tracing.

A call through PyTorch's dispatcher costs several microseconds, and the first one imports the compiler, seconds of
start-up. Eager calls on plain tensors need neither, so they go straight to the implementation.
"""

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["Op", "register"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class Op(Generic[P, R]):
    """A function registered as `torch.ops.fastvae.<name>`; calling it takes the shortest way that is right."""

    def __init__(self, name: str, function: Callable[P, R]) -> None:
        self._function = function
        self._registered = torch.library.custom_op(f"fastvae::{name}", mutates_args=())(function)
        self._overload = getattr(torch.ops.fastvae, name).default

    def register_fake(self, fake: F) -> F:
        """Register the shape rule: the op's outputs, empty, for given inputs."""
        self._registered.register_fake(fake)
        return fake

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The op's result; through the dispatcher if anything but eager calls on plain tensors is going on."""
        if torch.compiler.is_compiling() or self._traced(args):
            result: R = self._overload(*args, **kwargs)
            return result
        return self._function(*args, **kwargs)

    @staticmethod
    def _traced(args: tuple[Any, ...]) -> bool:
        """Whether a dispatch mode is on, or an argument is a tensor subclass or on the meta device."""
        if _get_current_dispatch_mode() is not None:
            return True
        return any(isinstance(a, Tensor) and (type(a) not in _PLAIN or a.is_meta) for a in args)


_PLAIN = (Tensor, torch.nn.Parameter)


def register(name: str) -> Callable[[Callable[P, R]], Op[P, R]]:
    """Decorator that registers a function with a schema-typed signature as the op `fastvae::<name>`."""
    return lambda function: Op(name, function)
