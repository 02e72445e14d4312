"""From a plan to an ONNX graph: each step becomes the nodes that compute the same.

The batch stays dynamic: rows are the first axis of every input and output, under one name. Noise never enters a
graph by itself; a plan that draws it takes standard normals as an input instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from fastvae.errors import UnsupportedError
from fastvae.layers import Shape
from fastvae.onnx import images, scores, winograd
from fastvae.onnx.activations import activate, logvar
from fastvae.onnx.graph import Graph
from fastvae.onnx.likelihoods import LIKELIHOODS
from fastvae.plan import MEAN_VERBS, Plan, Step, output_dtypes

# Names of the dynamic axis. z may hold several draws for each row of the data, one block of rows after the other.
ROWS = "rows"
DRAWN = "samples * rows"
OUTPUTS = {
    "encode": ("mean", "logvar"),
    "embed": ("mean",),
    "score": ("nll",),
    "squared_error": ("squared_error",),
    "impute": ("nll", "output"),
    "kl": ("kl",),
    "elbo": ("nll", "kl"),
    "distance": ("squared_error",),
}
# The verbs of plans that are parts of others: a band of an image, and the steps before some that have no form here.
PARTS = ("band", "front")
NOISE = "noise"
LIMIT = 2**31 - 2**20
ONNX_TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.uint8: onnx.TensorProto.UINT8,
    torch.bool: onnx.TensorProto.BOOL,
}


def to_onnx(
    plan: Plan,
    *,
    name: str = "fastvae",
    metadata: Mapping[str, str] | None = None,
    batch_invariant: bool = False,
    any_size: bool = False,
    runtime: bool = False,
    outside: dict[str, NDArray[Any]] | None = None,
) -> onnx.ModelProto:
    """``plan`` as an ONNX model in float32 with a dynamic batch.

    Inputs are called as in the plan, outputs as in :func:`output_names`. A plan that draws z takes the input ``noise``,
    (rows, latent_dim) standard normals, instead. Verbs with both z and x take any whole multiple of x's rows as z's.

    Args:
        plan: with weights of any float dtype; the model computes in float32.
        name: of the graph.
        metadata: what to say in the file besides the verb.
        batch_invariant: write sums over a row so that their order does not depend on the row's place in the batch.
        any_size: let the height and width of images differ from call to call; the plan must fit images of any size.
        runtime: for ONNX Runtime alone, with ops of its own where they are better than ONNX's.
        outside: takes large weights, by name, which the model then holds the shapes of; they may share memory with the
            plan's.

    Raises:
        UnsupportedError: the weights take more than the 2 GiB one file may have, or a step has no ONNX form.
    """
    if outside is None and sum(weight.numel() * 4 for weight in plan.weights.values()) > LIMIT:
        raise UnsupportedError("onnx: the model's weights take more than 2 GiB, which one ONNX file cannot hold")
    lowering = _Lowering(plan, name, batch_invariant=batch_invariant, any_size=any_size, runtime=runtime)
    return lowering.run({"fastvae.verb": plan.verb, **(metadata or {})}, outside)


def output_names(plan: Plan) -> tuple[str, ...]:
    """What the graph calls the plan's outputs: the same for every model. Of a part of a plan, what that calls them."""
    if plan.verb in PARTS:
        return tuple(f"{plan.verb}:{name}" for name in plan.outputs)
    if plan.verb == "parameters" and any("." in name for name in plan.outputs):  # of segments
        return plan.outputs
    if plan.verb == "parameters":
        named = (name.removesuffix("_x") if name.endswith("_x") else "logvar" for name in plan.outputs[1:])
        return ("location", *named)
    if plan.verb in MEAN_VERBS:
        return plan.outputs
    return OUTPUTS.get(plan.verb.removesuffix("_scaled"), ("output",))[: len(plan.outputs)]


class _Lowering:
    """One translation: the graph so far, and which of its values holds each buffer of the plan."""

    def __init__(self, plan: Plan, name: str, *, batch_invariant: bool, any_size: bool, runtime: bool) -> None:
        self.plan, self.batch_invariant, self.any_size, self.runtime = plan, batch_invariant, any_size, runtime
        self.graph = Graph(name)
        self.values: dict[str, str] = {}
        self.several = {"x", "z"} <= set(plan.inputs)

    def run(self, metadata: dict[str, str], outside: dict[str, NDArray[Any]] | None) -> onnx.ModelProto:
        for name in self.plan.inputs:
            self.input(name, self.plan.shapes[name], boolean=name == "mask")
        for step in self.plan.steps:
            if step.op not in LOWERINGS:
                raise UnsupportedError(f"onnx: the op {step.op!r} has no ONNX form")
            operands = (self._operand(name) for name in step.inputs)
            keywords = {key: self._operand(name) for key, name in step.keywords.items()}
            results = LOWERINGS[step.op](self, step, *operands, **keywords)
            self.values.update(zip(step.outputs, results, strict=True))
        kinds = (ONNX_TYPES[dtype] for dtype in output_dtypes(self.plan, torch.float32))
        for buffer, name, kind in zip(self.plan.outputs, output_names(self.plan), kinds, strict=True):
            rows = DRAWN if self.several else ROWS
            axes = self._axes(name, self.plan.shapes[buffer], channels_last=kind == ONNX_TYPES[torch.uint8])
            self.graph.output(self.values[buffer], name, axes, rows=rows, dtype=kind)
        return self.graph.finish(metadata, outside=outside)

    def input(self, name: str, shape: Shape, *, boolean: bool = False) -> str:
        """Take ``name`` from the caller."""
        self.values[name] = name
        rows = DRAWN if self.several and name == "z" else ROWS
        self.graph.input(name, self._axes(name, shape), rows=rows, boolean=boolean)
        return name

    def _axes(self, name: str, shape: Shape, *, channels_last: bool = False) -> tuple[int | str, ...]:
        """A row's shape, the height and width of an image by name where they may differ from call to call."""
        if not self.any_size or len(shape) != 3:
            return shape
        sizes = f"{name} height", f"{name} width"
        return (*sizes, shape[2]) if channels_last else (shape[0], *sizes)

    def _operand(self, name: str | None) -> str | None:
        if name is None or name in self.values:
            return None if name is None else self.values[name]
        return self.graph.constant(name, self.plan.weights[name].detach().cpu().float().numpy())

    def expanded(self, weight: str | None, x: str) -> str | None:
        """A per-channel operand in a shape that broadcasts against rows of buffer ``x``."""
        if weight is None:
            return None
        tensor, rank = self.plan.weights[weight].detach().cpu().float(), len(self.plan.shapes[x])
        if tensor.ndim == 1 and rank > 1:
            tensor = tensor.reshape(-1, *[1] * (rank - 1))
        return self.graph.constant(f"{weight}:rank{rank}", tensor.numpy())

    def samples(self, step: Step, x: str) -> scores.Samples:
        """The draws of z for each row of the data, value ``x`` of the graph, that ``step`` scores."""
        shape, several = self.plan.shapes[str(step.inputs[0])], self.several
        return scores.Samples(self.graph, x, shape, several=several, aligned=self.batch_invariant)


def _activated(to: _Lowering, step: Step, value: str) -> str:
    return activate(to.graph, value, step.attributes.get("activation", "identity"), step.attributes.get("alpha"))


def _linear(
    to: _Lowering, step: Step, x: str, weight: str, bias: str | None, residual: str | None = None
) -> tuple[str, ...]:
    value = _activated(to, step, to.graph.add("Gemm", _present(x, weight, bias), transB=1))
    return (value if residual is None else to.graph.add("Add", [value, residual]),)


def _conv2d(to: _Lowering, step: Step, x: str, weight: str, bias: str | None) -> tuple[str, ...]:
    if winograd.pays(to.plan, step):
        return (_activated(to, step, winograd.convolution(to.graph, to.plan, step, x)),)
    return (_activated(to, step, to.graph.add("Conv", _present(x, weight, bias), **_geometry(step))),)


def _conv_transpose2d(to: _Lowering, step: Step, x: str, weight: str, bias: str | None) -> tuple[str, ...]:
    if images.has_phases(to.plan, step):
        return (_activated(to, step, images.phases(to.graph, to.plan, step, x)),)
    geometry = _geometry(step) | {"output_padding": list(step.attributes["output_padding"])}
    return (_activated(to, step, to.graph.add("ConvTranspose", _present(x, weight, bias), **geometry)),)


def _group_norm(to: _Lowering, step: Step, x: str, weight: str, bias: str) -> tuple[str, ...]:
    channels = to.plan.shapes[step.outputs[0]][0]
    return (_activated(to, step, images.group_norm(to.graph, x, weight, bias, channels, **_own(step))),)


def _normalise(to: _Lowering, step: Step, x: str, scale: str, shift: str, centre: str) -> tuple[str, ...]:
    channels = to.plan.shapes[str(step.inputs[0])][0]
    return (_activated(to, step, images.normalise(to.graph, x, (scale, shift, centre), channels)),)


def _attention(to: _Lowering, step: Step, q: str, k: str, v: str) -> tuple[str, ...]:
    channels = to.plan.shapes[str(step.inputs[0])][0]
    lowered = images.attention_in_blocks if to.runtime else images.attention
    return (lowered(to.graph, q, k, v, channels, **step.attributes),)


def _to_bytes(to: _Lowering, step: Step, x: str) -> tuple[str, ...]:
    return images.to_bytes(to.graph, x, to.plan.shapes[str(step.inputs[0])], **step.attributes)


def _upsample(to: _Lowering, step: Step, x: str) -> tuple[str, ...]:
    return (images.upsample(to.graph, x, **step.attributes),)


def _own(step: Step) -> dict[str, Any]:
    """Its attributes without those of its activation."""
    return {key: value for key, value in step.attributes.items() if key not in ("activation", "alpha")}


def _geometry(step: Step) -> dict[str, Any]:
    a = step.attributes
    return {
        "strides": list(a["stride"]),
        "pads": list(a["padding"] if len(a["padding"]) == 4 else 2 * a["padding"]),
        "dilations": list(a["dilation"]),
        "group": a["groups"],
    }


def _affine(to: _Lowering, step: Step, x: str, scale: str | None, shift: str | None) -> tuple[str, ...]:
    buffer, *parameters = step.inputs
    assert buffer is not None
    scale, shift = (to.expanded(name, buffer) for name in parameters)
    value = x if scale is None else to.graph.add("Mul", [x, scale])
    value = value if shift is None else to.graph.add("Add", [value, shift])
    return (_activated(to, step, value),)


def _logvar(to: _Lowering, step: Step, raw: str) -> tuple[str, ...]:
    return (logvar(to.graph, raw, **step.attributes),)


def _bernoulli_nll(to: _Lowering, step: Step, logits: str, x: str, mask: str | None) -> tuple[str, ...]:
    return (scores.bernoulli_nll(to.graph, logits, x, mask, to.samples(step, x)),)


def _gaussian_nll(to: _Lowering, step: Step, mean: str, variance: str, x: str, mask: str | None) -> tuple[str, ...]:
    samples = to.samples(step, x)
    weight = to.plan.weights.get(str(step.inputs[1]))
    if weight is not None:
        return (scores.gaussian_nll_constant(to.graph, mean, weight.detach().cpu().double(), x, mask, samples),)
    return (scores.gaussian_nll(to.graph, mean, variance, x, mask, samples),)


def _squared_error(to: _Lowering, step: Step, output: str, x: str) -> tuple[str, ...]:
    return (scores.squared_error(to.graph, output, x, to.samples(step, x)),)


def _kl(to: _Lowering, step: Step, mean: str, variance: str) -> tuple[str, ...]:
    shape = to.plan.shapes[str(step.inputs[0])]
    rows = scores.Samples(to.graph, mean, shape, several=False, aligned=to.batch_invariant)
    return (scores.divergence(to.graph, mean, variance, rows),)


def _sample_normal(to: _Lowering, step: Step) -> tuple[str, ...]:
    return (to.input(NOISE, (step.attributes["dim"],)),)


def _add(to: _Lowering, step: Step, x: str, y: str) -> tuple[str, ...]:
    return (to.graph.add("Add", [x, y]),)


def _reshape(to: _Lowering, step: Step, x: str) -> tuple[str, ...]:
    return (to.graph.add("Reshape", [x, to.graph.integers(0, *step.attributes["shape"])]),)


def _join(to: _Lowering, step: Step, x: str, condition: str) -> tuple[str, ...]:
    shape = to.plan.shapes[str(step.inputs[0])]
    if len(shape) > 1:
        columns = to.graph.add("Unsqueeze", [condition, to.graph.integers(2, 3)])
        condition = to.graph.add("Expand", [columns, to.graph.integers(1, 1, *shape[1:])])
    return (to.graph.add("Concat", [x, condition], axis=1),)


def _split(to: _Lowering, step: Step, x: str) -> tuple[str, ...]:
    if step.attributes["layout"] == "chunked":
        return to.graph.add_many("Split", [x], tuple(f"half:{name}" for name in step.outputs), axis=1, num_outputs=2)
    channels, axis, two = to.plan.shapes[str(step.inputs[0])][0], to.graph.integers(1), to.graph.integers(2)
    end = to.graph.integers(channels)
    return tuple(to.graph.add("Slice", [x, to.graph.integers(first), end, axis, two]) for first in (0, 1))


def _pad(to: _Lowering, step: Step, x: str) -> tuple[str, ...]:
    return (to.graph.add("Pad", [x, to.graph.integers(0, 0, 0, step.attributes["columns"])]),)


def _narrow(to: _Lowering, step: Step, x: str) -> tuple[str, ...]:
    zero, one = to.graph.integers(0), to.graph.integers(1)
    return (to.graph.add("Slice", [x, zero, to.graph.integers(step.attributes["columns"]), one]),)


def _present(*names: str | None) -> list[str]:
    return [name for name in names if name is not None]


LOWERINGS: dict[str, Callable[..., tuple[str, ...]]] = {
    "linear": _linear,
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "group_norm": _group_norm,
    "attention": _attention,
    "to_bytes": _to_bytes,
    "upsample": _upsample,
    "affine": _affine,
    "logvar": _logvar,
    "bernoulli_nll": _bernoulli_nll,
    "gaussian_nll": _gaussian_nll,
    "squared_error": _squared_error,
    "kl": _kl,
    "sample_normal": _sample_normal,
    "add": _add,
    "reshape": _reshape,
    "join": _join,
    "split": _split,
    "pad": _pad,
    "narrow": _narrow,
    "normalise": _normalise,
    **LIKELIHOODS,
}
