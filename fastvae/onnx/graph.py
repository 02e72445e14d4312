"""Writing an ONNX graph node by node, without keeping track of names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

# An opset and the version of the file format it came with, in ONNX 1.15: what reads the one reads the other.
OPSET = 20
IR_VERSION = 9
# Bytes from which on a constant may stay outside of a model.
LARGE = 2**14
# Ops that ONNX Runtime has beside ONNX's.
RUNTIME_DOMAIN = "com.microsoft"


class Graph:
    """An ONNX graph under construction: nodes, constants, and the inputs and outputs of the whole."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._made = 0

    def add(self, op: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """A node with one output, whose name is returned."""
        return self.add_many(op, inputs, (output or self._fresh(op),), **attributes)[0]

    def add_many(self, op: str, inputs: Sequence[str], outputs: tuple[str, ...], **attributes: Any) -> tuple[str, ...]:
        """A node with several outputs of these names."""
        self._nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """An array as a constant, stored once under each name."""
        self._constants.setdefault(name, np.ascontiguousarray(values))
        return name

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(f"number:{value!r}", np.array(value, dtype=np.float32))

    def integers(self, *values: int) -> str:
        """A one-dimensional int64 tensor, as shapes and axes are given."""
        return self.constant(f"integers:{values}", np.array(values, dtype=np.int64))

    def choose(self, condition: str, then: Callable[[], str], otherwise: Callable[[], str]) -> str:
        """The float32 value that one of two functions adds, by a boolean known when the graph runs."""
        branches = {}
        for name, add in (("then_branch", then), ("else_branch", otherwise)):
            before, self._nodes = self._nodes, []
            value = helper.make_tensor_value_info(add(), onnx.TensorProto.FLOAT, None)
            branches[name] = helper.make_graph(self._nodes, name, [], [value])
            self._nodes = before
        return self.add("If", [condition], **branches)

    def input(self, name: str, shape: Sequence[int | str], *, rows: str, boolean: bool = False) -> None:
        """An input of shape (rows, *shape), float32 or boolean; ``rows``, and text in ``shape``, name dynamic axes."""
        dtype = onnx.TensorProto.BOOL if boolean else onnx.TensorProto.FLOAT
        self._inputs.append(helper.make_tensor_value_info(name, dtype, [rows, *shape]))

    def output(
        self, value: str, name: str, shape: Sequence[int | str], *, rows: str, dtype: int = onnx.TensorProto.FLOAT
    ) -> None:
        """``value`` as an output ``name`` of shape (rows, *shape) and of a TensorProto's ``dtype``."""
        self.add("Identity", [value], name)
        self._outputs.append(helper.make_tensor_value_info(name, dtype, [rows, *shape]))

    def finish(self, metadata: dict[str, str], *, outside: dict[str, NDArray[Any]] | None = None) -> onnx.ModelProto:
        """The whole as a model, with the constants that some node reads.

        Large ones go to ``outside``, by name, where it is given: the model has only their shapes.
        """
        read = set(_read(self._nodes))
        constants = []
        for name in [name for name in self._constants if name in read]:
            values = self._constants.pop(name)
            if outside is None or values.nbytes < LARGE:
                constants.append(numpy_helper.from_array(values, name))
            else:
                outside[name] = values
                constants.append(_placeholder(name, values))
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, constants)
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == RUNTIME_DOMAIN for node in self._nodes):
            opsets.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fastvae")
        helper.set_model_props(model, metadata)
        return model

    def _fresh(self, op: str) -> str:
        self._made += 1
        return f"{op.lower()}.{self._made}"


def _read(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Every value that nodes read, those within branches too."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _read(attribute.g.node)


def _placeholder(name: str, values: NDArray[Any]) -> onnx.TensorProto:
    """A constant whose values are handed over beside the model, as if they were in a file."""
    tensor = onnx.TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(values.dtype), dims=values.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "memory"), ("offset", "0"), ("length", str(values.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor
