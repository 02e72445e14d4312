"""How an op is registered, and the short way to it when nobody is tracing.

A call through PyTorch's dispatcher costs several microseconds, and the first one imports the compiler, seconds of
start-up. Eager calls on plain tensors need neither, so they go straight to the implementation.
"""

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["PLAIN", "Op", "register"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class Op(Generic[P, R]):
    """A function registered as `torch.ops.fastvae.<name>`; calling it takes the shortest way that is right."""

    def __init__(self, name: str, function: Callable[P, R]) -> None:
        self._function = function
        self._registered = torch.library.custom_op(f"fastvae::{name}", mutates_args=())(function)
        self._overload = getattr(torch.ops.fastvae, name).default
        self._differentiable: type[torch.autograd.Function] | None = None

    def register_fake(self, fake: F) -> F:
        """Register the shape rule: the op's outputs, empty, for given inputs."""
        self._registered.register_fake(fake)
        return fake

    def register_autograd(
        self, backward: Callable[..., tuple[Any, ...]], setup_context: Callable[[Any, Any, Any], None]
    ) -> None:
        """Register how gradients are computed, as `torch.library.register_autograd` takes it; once, not twice.

        backward gives a gradient, or None, for each argument of the op.
        """
        self._registered.register_autograd(backward, setup_context=setup_context)
        self._differentiable = _differentiable(self._function, backward, setup_context)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The op's result; through the dispatcher if anything but eager calls on plain tensors is going on."""
        if torch.compiler.is_compiling() or self.traced(args):
            result: R = self._overload(*args, **kwargs)
        elif self._differentiable is not None and _wants_gradient(args):
            result = self._differentiable.apply(*args)  # type: ignore[no-untyped-call]
        else:
            result = self._function(*args, **kwargs)
        return result

    @staticmethod
    def traced(args: tuple[Any, ...]) -> bool:
        """Whether a dispatch mode is on, or an argument is a tensor subclass or on the meta device."""
        if _get_current_dispatch_mode() is not None:
            return True
        return any(isinstance(a, Tensor) and (type(a) not in PLAIN or a.is_meta) for a in args)

    @staticmethod
    def transformed() -> bool:
        """Whether a transform of torch.func or forward mode is on: tensors are then more than their memory."""
        return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


PLAIN = (Tensor, torch.nn.Parameter)


def _wants_gradient(args: tuple[Any, ...]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)


def _differentiable(
    function: Callable[..., Any], backward_: Callable[..., tuple[Any, ...]], setup: Callable[[Any, Any, Any], None]
) -> type[torch.autograd.Function]:
    """The function with its gradients for eager calls; PyTorch refuses it to torch.func's transforms."""

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            output = function(*args)
            setup(ctx, args, output)
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return backward_(ctx, *gradients)

    return Differentiable


def register(name: str) -> Callable[[Callable[P, R]], Op[P, R]]:
    """Decorator that registers a function with a schema-typed signature as the op `fastvae::<name>`."""
    return lambda function: Op(name, function)
