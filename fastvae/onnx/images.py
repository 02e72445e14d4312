"""Ops of image autoencoders as ONNX nodes that fit images of any size."""

from __future__ import annotations

import numpy as np
import onnx
import torch

from fastvae.layers import Shape
from fastvae.onnx.graph import RUNTIME_DOMAIN, Graph
from fastvae.plan import Plan, Step

# From so many input channels on, a transposed convolution that doubles an image is faster as four phases.
PHASE_CHANNELS = 256
# Adding up more elements than these one after the other loses digits that an image shows: ONNX Runtime's normalisation
# was seen to be off by 1e-5 at 2^18 elements, 7e-5 at 2^20 and 5e-4 at 2^22, by rows by 1e-6.
LONGEST_SUM = 2**18


def has_phases(plan: Plan, step: Step) -> bool:
    """Whether a transposed convolution is one of 4x4 taps that doubles an image of many channels."""
    a, weight = step.attributes, plan.weights[str(step.inputs[1])]
    window = a["stride"] == (2, 2) and a["padding"] == (1, 1) and a["output_padding"] == (0, 0)
    plain = a["dilation"] == (1, 1) and a["groups"] == 1 and tuple(weight.shape[2:]) == (4, 4)
    return window and plain and len(weight) >= PHASE_CHANNELS


def phases(graph: Graph, plan: Plan, step: Step, x: str) -> str:
    """Such a transposed convolution as a plain one of 2x2 taps and four times the channels, spread out over pixels.

    At each corner between pixels, border included, meet the four pixels that the four outputs around it see.
    """
    name = str(step.inputs[1])
    weight = plan.weights[name].detach().cpu().float()  # [in, out, 4, 4]
    # Of the two outputs at a corner, the first sees taps 2 and 0 of the pixels before and after it, the second 3 and 1.
    taps = [2, 0], [3, 1]
    corners = [weight[:, :, rows][:, :, :, columns].transpose(0, 1) for rows in taps for columns in taps]
    stacked = torch.stack(corners)  # [4, out, in, 2, 2]
    kernel = graph.constant(f"{name}.phases", stacked.flatten(0, 1).numpy())
    inputs = [x, kernel]
    if step.inputs[2] is not None:
        bias = plan.weights[step.inputs[2]].detach().cpu().float().repeat(4)
        inputs.append(graph.constant(f"{step.inputs[2]}.phases", bias.numpy()))
    corner_pixels = graph.add("Conv", inputs, pads=[1, 1, 1, 1])
    spread = graph.add("DepthToSpace", [corner_pixels], blocksize=2, mode="DCR")
    return graph.add("Slice", [spread, graph.integers(1, 1), graph.integers(-1, -1), graph.integers(2, 3)])


def group_norm(graph: Graph, x: str, weight: str, bias: str, channels: int, *, groups: int, eps: float) -> str:
    """Normalised over groups of channels and all pixels, then scaled and shifted in one pass."""
    sized = graph.add("Reshape", [x, graph.integers(0, groups, -1)])
    elements = graph.add("Gather", [graph.add("Shape", [sized]), graph.integers(2)])
    normal = graph.choose(
        graph.add("Greater", [elements, graph.integers(LONGEST_SUM)]),
        lambda: _normal_by_rows(graph, x, groups, eps),
        lambda: _normal(graph, x, groups, eps),
    )
    mean, variance = (_filled(graph, channels, value) for value in (0.0, 1.0))
    return graph.add("BatchNormalization", [normal, weight, bias, mean, variance], epsilon=0.0)


def _normal(graph: Graph, x: str, groups: int, eps: float) -> str:
    """Groups of ``x`` with mean 0 and variance 1, by one op that adds a whole group up."""
    by_group = graph.add("Reshape", [x, graph.integers(0, groups, -1)])
    unit = [_filled(graph, groups, value) for value in (1.0, 0.0)]
    normal = graph.add("InstanceNormalization", [by_group, *unit], epsilon=eps)
    return graph.add("Reshape", [normal, graph.add("Shape", [x])])


def _normal_by_rows(graph: Graph, x: str, groups: int, eps: float) -> str:
    """As :func:`_normal`, but every row of pixels is added up first: errors stay those of short sums."""
    shape, by_group = graph.add("Shape", [x]), graph.integers(0, groups, -1)
    row, group = graph.integers(3), graph.integers(2)
    means = graph.add("Reshape", [graph.add("ReduceMean", [x, row]), by_group])
    centred = graph.add("Sub", [graph.add("Reshape", [x, by_group]), graph.add("ReduceMean", [means, group])])
    squares = graph.add("ReduceSumSquare", [graph.add("Reshape", [centred, shape]), row])
    rows = graph.add("ReduceMean", [graph.add("Reshape", [squares, by_group]), group])
    width = graph.add("Cast", [graph.add("Gather", [shape, row])], to=onnx.TensorProto.FLOAT)
    variance = graph.add("Div", [rows, width])
    deviation = graph.add("Sqrt", [graph.add("Add", [variance, graph.number(eps)])])
    return graph.add("Reshape", [graph.add("Div", [centred, deviation]), shape])


def _filled(graph: Graph, size: int, value: float) -> str:
    """A vector of one value as a constant."""
    return graph.constant(f"{value}:{size}", np.full(size, value, np.float32))


def normalise(graph: Graph, x: str, parameters: tuple[str, str, str], channels: int) -> str:
    """(x - centre) * scale + shift of one image, whose ``parameters`` are scale, shift and centre, (1, channels)."""
    scale, shift, centre = (graph.add("Reshape", [name, graph.integers(channels)]) for name in parameters)
    return graph.add("BatchNormalization", [x, scale, shift, centre, _filled(graph, channels, 1.0)], epsilon=0.0)


def attention(graph: Graph, q: str, k: str, v: str, channels: int, *, heads: int) -> str:
    """softmax(q k^T / sqrt(channels / heads)) v over pixels."""
    scale = (channels // heads) ** -0.5
    pixels = graph.integers(0, heads, channels // heads, -1)
    queries, keys, values = (graph.add("Reshape", [image, pixels]) for image in (q, k, v))
    scaled = graph.add("Mul", [graph.add("Transpose", [queries], perm=[0, 1, 3, 2]), graph.number(scale)])
    weights = graph.add("Softmax", [graph.add("MatMul", [scaled, keys])], axis=-1)
    mixed = graph.add("MatMul", [values, graph.add("Transpose", [weights], perm=[0, 1, 3, 2])])
    return graph.add("Reshape", [mixed, graph.add("Shape", [q])])


def attention_in_blocks(graph: Graph, q: str, k: str, v: str, channels: int, *, heads: int) -> str:
    """:func:`attention` by an op of ONNX Runtime's own, which never holds the weights of all pairs of pixels."""
    shape = graph.integers(0, channels, -1)
    flat = [graph.add("Transpose", [graph.add("Reshape", [image, shape])], perm=[0, 2, 1]) for image in (q, k, v)]
    mixed = graph.add("MultiHeadAttention", flat, domain=RUNTIME_DOMAIN, num_heads=heads)
    return graph.add("Reshape", [graph.add("Transpose", [mixed], perm=[0, 2, 1]), graph.add("Shape", [q])])


def to_bytes(graph: Graph, x: str, shape: Shape, *, scale: float, shift: float) -> tuple[str, str]:
    """255 (x scale + shift) rounded and clamped, of images with their channels last, and which rows have a NaN.

    Quantising by 1 is the rounding, ties to even, and the clamping in one op. A sum is NaN if one of its terms is; so
    it is of infinities of both signs, in which no image has survived either.
    """
    axes = graph.integers(*range(1, len(shape) + 1))
    nan = graph.add("IsNaN", [graph.add("ReduceSum", [x, axes], keepdims=0)])
    y = x if scale == 1 else graph.add("Mul", [x, graph.number(scale)])
    y = y if shift == 0 else graph.add("Add", [y, graph.number(shift)])
    one, zero = graph.number(1.0), graph.constant("zero byte", np.array(0, np.uint8))
    pixels = graph.add("QuantizeLinear", [graph.add("Mul", [y, graph.number(255.0)]), one, zero])
    return graph.add("Transpose", [pixels], perm=[0, 2, 3, 1]) if len(shape) == 3 else pixels, nan


def upsample(graph: Graph, x: str, *, factor: int) -> str:
    """Every pixel ``factor`` times in each direction."""
    scales = graph.constant(f"scales:{factor}", np.array([1, 1, factor, factor], np.float32))
    settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.add("Resize", [x, "", scales], **settings)
