"""From a module to what it computes: ``torch.export`` records its operators, the rules translate them one by one."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from fastvae.errors import InputError, UnsupportedError
from fastvae.formats.modules._call import Call
from fastvae.formats.modules._shape_rules import RULES
from fastvae.formats.modules._values import Value, input_value
from fastvae.formats.modules._weights import Constant, Weights
from fastvae.layers import Shape

SUPPORTED = ", ".join(sorted(name for name in RULES if not name.startswith("_")))

# What is recorded where a module calls .float(), .to(dtype) and the like, even if that changes nothing.
CONVERSIONS = ("_assert_tensor_metadata", "_to_copy", "to", "type_as")


@dataclass(frozen=True)
class Traced:
    """A module's output (in the module's own containers) for one input value.

    In place of its tensors are values, constants, or the error that says why one could not be translated.
    ``converts`` is whether the module asks for a dtype by name somewhere, and so has a precision of its own.
    """

    output: Any
    source: Value
    weights: Weights
    converts: bool


def private_copy(name: str, module: nn.Module) -> nn.Module:
    """A copy of ``module`` on the CPU in evaluation mode, so that the caller's keeps every flag and number it has.

    Raises:
        InputError: not a module.
        UnsupportedError: it cannot be copied.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"{name}: expected a torch.nn.Module, got {type(module).__name__}")
    try:
        return copy.deepcopy(module).cpu().eval()
    except Exception as error:  # the caller's own __deepcopy__ or __reduce__ may run
        raise UnsupportedError(
            f"{name}: cannot be copied: {_first_line(error)}; remove what only training needs, such as hooks"
        ) from error


def trace(name: str, module: nn.Module, example: Tensor) -> Traced:
    """What ``module``, in evaluation mode on the CPU, computes of rows like ``example``.

    Args:
        name: "encoder" or "decoder", in messages and in front of the weights' names.
        example: at least two rows, so that their axis can be told from others of one element.

    Raises:
        UnsupportedError: ``torch.export`` cannot record it, or it changes its own buffers.
    """
    program = _export(name, module, example)
    weights = Weights(name, module)
    source = input_value(tuple(example.shape[1:]))
    values = _Interpreter(name, program, weights, len(example)).run(source)
    outputs = [
        values[spec.arg.name] if isinstance(spec.arg, TensorArgument) else None for spec in _user_outputs(name, program)
    ]
    converts = any(node.op == "call_function" and _base_name(node) in CONVERSIONS for node in program.graph.nodes)
    return Traced(pytree.tree_unflatten(outputs, program.call_spec.out_spec), source, weights, converts)


def _export(name: str, module: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The program in a functional form, where no operator writes into another one's result."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: torch.export.ExportedProgram = torch.export.export(module, (example,), strict=False)
            if all(_is_plain(node) for node in program.graph.nodes):
                return program
            functional: torch.export.ExportedProgram = program.run_decompositions({})
            return functional
    except Exception as error:  # the caller's code runs inside, and what export raises has no common type
        raise UnsupportedError(
            f"{name}: torch.export cannot trace it on a tensor of shape {tuple(example.shape)}: {_first_line(error)}; "
            "it must take one tensor, and what it does may depend on the tensor's shape but not on its numbers"
        ) from error


def _is_plain(node: fx.Node) -> bool:
    """Whether a node writes into none of its operands and holds no graph of its own."""
    if node.op != "call_function" or node.target is operator.getitem:
        return True
    return isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.is_mutable


def _user_outputs(name: str, program: torch.export.ExportedProgram) -> Iterator[Any]:
    for spec in program.graph_signature.output_specs:
        if spec.kind != OutputKind.USER_OUTPUT:
            raise UnsupportedError(f"{name}: it changes its buffer {spec.target!r} when it runs")
        yield spec


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


class _Interpreter:
    """Runs a graph on values and constants instead of tensors.

    An operator that cannot be translated gives its error, which goes on to all that is computed from it: only what
    the caller needs of the output must be supported.
    """

    def __init__(self, name: str, program: torch.export.ExportedProgram, weights: Weights, rows: int) -> None:
        self.name, self.program, self.weights, self.rows = name, program, weights, rows
        self.results: dict[str, Any] = {}

    def run(self, source: Value) -> dict[str, Any]:
        """The result of every node, by the node's name."""
        signature = self.program.graph_signature
        owned = signature.inputs_to_parameters | signature.inputs_to_buffers
        lifted = signature.inputs_to_lifted_tensor_constants
        for node in self.program.graph.nodes:
            if node.op == "placeholder" and node.name in owned:
                tensor = self.weights.state[f"{self.name}.{owned[node.name]}"]
                self.results[node.name] = Constant(_float64(tensor.detach()), tensor)
            elif node.op == "placeholder" and node.name in lifted:
                self.results[node.name] = Constant(_float64(self.program.constants[lifted[node.name]].detach()))
            elif node.op == "placeholder":
                self.results[node.name] = source
            elif node.op == "call_function":
                self.results[node.name] = self._result(node)
        return self.results

    def _result(self, node: fx.Node) -> Any:
        given: Any = fx.map_arg((node.args, node.kwargs), lambda n: self.results[n.name])
        arguments, keywords = given
        operands = pytree.tree_leaves((arguments, keywords), is_leaf=lambda x: isinstance(x, Constant))
        errors = [operand for operand in operands if isinstance(operand, UnsupportedError)]
        if errors:
            return errors[0]
        if node.target is operator.getitem:
            return arguments[0][arguments[1]] if arguments[1] < len(arguments[0]) else None
        if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.returns:
            return self._unknown(node) if node.users else None
        try:
            if not any(isinstance(operand, Value) for operand in operands):
                return self._evaluated(node, arguments, keywords)
            rule = RULES.get(_base_name(node))
            return rule(self._call(node, arguments, keywords)) if rule else self._unknown(node)
        except UnsupportedError as error:
            return error

    def _unknown(self, node: fx.Node) -> UnsupportedError:
        return UnsupportedError(f"{self._where(node)} is not supported; supported: {SUPPORTED}")

    def _evaluated(self, node: fx.Node, arguments: Any, keywords: Any) -> Any:
        """What operators make of constants alone, in float64."""
        target: Any = node.target
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise UnsupportedError(f"{self._where(node)} is not supported: it draws random numbers")
        plain = fx.node.map_aggregate((arguments, keywords), lambda x: x.tensor if isinstance(x, Constant) else x)
        args, kwargs = fx.node.map_aggregate(plain, _wide)
        result = target(*args, **kwargs)
        return pytree.tree_map_only(Tensor, lambda t: Constant(_float64(t)), result)

    def _call(self, node: fx.Node, arguments: Any, keywords: Any) -> Call:
        target: Any = node.target
        bound = {a.name: a.default_value if a.has_default_value() else None for a in target._schema.arguments}
        bound |= dict(zip((a.name for a in target._schema.arguments), arguments, strict=False)) | keywords
        results = pytree.tree_leaves(node.meta["val"])
        shapes: tuple[Shape, ...] = tuple(tuple(map(int, t.shape)) for t in results if isinstance(t, Tensor))
        name, where = _base_name(node), self._where(node)
        return Call(name, bound, shapes, self.rows, self.weights, self._module(node), node.name, where)

    def _module(self, node: fx.Node) -> str:
        """Full path of the innermost module that called the operator; a second call's path ends in ``@1``."""
        stack = node.meta.get("nn_module_stack") or {}
        path = next((entry[0] for entry in reversed(stack.values())), "").partition("@")[0]
        return f"{self.name}.{path}" if path else self.name

    def _where(self, node: fx.Node) -> str:
        return f"{self.name}: operator {node.target} in module {self._module(node)!r}"


def _base_name(node: fx.Node) -> str:
    """``relu`` of ``aten.relu.default``; the whole name for operators of other libraries."""
    whole = str(node.target)
    return whole.split(".")[1] if whole.startswith("aten.") else whole


def _float64(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _wide(argument: Any) -> Any:
    """Constants are kept in float64 whatever type the module asks for."""
    return torch.float64 if isinstance(argument, torch.dtype) and argument.is_floating_point else argument
