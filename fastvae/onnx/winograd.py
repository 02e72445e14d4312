"""3x3 convolutions of many channels by Winograd's minimal filtering, F(2x2, 3x3) (Lavin & Gray 2016).

Four outputs that lie in a square take 16 products of numbers that mix the 4x4 inputs they see, instead of 36. Mixing
costs additions over the whole image, so that it pays where each pixel has many channels. The 16 products are matrices;
pixels are kept by the parity of their row and column, so that every addition runs along rows.
"""

from __future__ import annotations

import torch

from fastvae.onnx.graph import Graph
from fastvae.plan import Plan, Step

# Of input and output: fewer channels are faster as a plain convolution.
CHANNELS = 256
# Of an image: fewer make small matrices.
PIXELS = 1024

PLAIN = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
# From three taps to the four numbers that mixed inputs are multiplied by.
TAPS = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
END = 2**31 - 1
# Channels whose taps are mixed together in float64, which takes five times the memory of the result.
OUTPUTS_AT_ONCE = 64


def pays(plan: Plan, step: Step) -> bool:
    """Whether a conv2d step is one of those."""
    outputs, inputs, *size = plan.weights[str(step.inputs[1])].shape
    plain = all(step.attributes[key] == value for key, value in PLAIN.items()) and size == [3, 3]
    height, width = plan.shapes[step.outputs[0]][1:]
    return plain and min(inputs, outputs) >= CHANNELS and height * width >= PIXELS


def convolution(graph: Graph, plan: Plan, step: Step, x: str) -> str:
    """The convolution, with its bias but not its activation, for images of any size."""
    name = str(step.inputs[1])
    weight = plan.weights[name].detach().cpu()
    taps = torch.empty(4, 4, *weight.shape[:2])
    for low in range(0, len(weight), OUTPUTS_AT_ONCE):
        part = slice(low, low + OUTPUTS_AT_ONCE)
        taps[:, :, part] = torch.einsum("ka,lb,oiab->kloi", TAPS, TAPS, weight[part].double())
    size = graph.add("Shape", [x], start=2, end=4)
    tiles, pixels = _by_parity(graph, x, size)
    products: list[list[str]] = []
    for row, (even, odd) in enumerate(zip(_mixed(graph, *pixels[0], 2), _mixed(graph, *pixels[1], 2), strict=True)):
        mixed = _mixed(graph, even, odd, 3)
        flat = [graph.add("Reshape", [value, graph.integers(0, 0, -1)]) for value in mixed]
        kernels = [graph.constant(f"{name}.winograd.{row}{column}", taps[row, column].numpy()) for column in range(4)]
        products.append([graph.add("MatMul", pair) for pair in zip(kernels, flat, strict=True)])
    if step.inputs[2] is not None:  # this product counts once for every output
        bias = plan.weights[step.inputs[2]].detach().cpu().float()[:, None]
        column = graph.constant(f"{step.inputs[2]}.column", bias.numpy())
        products[1][1] = graph.add("Add", [products[1][1], column])
    columns = [_gathered(graph, list(column)) for column in zip(*products, strict=True)]
    outputs = [_gathered(graph, list(row)) for row in zip(*columns, strict=True)]
    joined = graph.add("Concat", [value for pair in outputs for value in pair], axis=1)
    shape = graph.add("Concat", [graph.integers(0, 4 * len(weight)), tiles], axis=0)
    spread = graph.add("DepthToSpace", [graph.add("Reshape", [joined, shape])], blocksize=2, mode="DCR")
    return graph.add("Slice", [spread, graph.integers(0, 0), size, graph.integers(2, 3)])


def _by_parity(graph: Graph, x: str, size: str) -> tuple[str, list[tuple[str, str]]]:
    """How many squares of 2x2 outputs there are each way; and, by column's parity, pixels of even and of odd rows.

    Around the image is a border of one, and one more at the bottom and right where that makes sizes even.
    """
    odd = graph.add("Mod", [size, graph.integers(2)])
    pads = graph.add("Concat", [graph.integers(0, 0, 1, 1, 0, 0), graph.add("Add", [odd, graph.integers(1)])], axis=0)
    quarters = graph.add("SpaceToDepth", [graph.add("Pad", [x, pads])], blocksize=2)
    names = tuple(f"{quarters}.{row}{column}" for row in (0, 1) for column in (0, 1))
    parts = graph.add_many("Split", [quarters], names, axis=1, num_outputs=4)
    tiles = graph.add("Sub", [graph.add("Shape", [quarters], start=2, end=4), graph.integers(1)])
    return tiles, [(parts[0], parts[2]), (parts[1], parts[3])]


def _mixed(graph: Graph, even: str, odd: str, axis: int) -> list[str]:
    """The four combinations of each four inputs in a row along ``axis``, given as those of even and odd place."""

    def part(value: str, first: int, last: int) -> str:
        return graph.add("Slice", [value, graph.integers(first), graph.integers(last), graph.integers(axis)])

    first, third = part(even, 0, -1), part(even, 1, END)
    second, fourth = part(odd, 0, -1), part(odd, 1, END)
    pairs = ("Sub", first, third), ("Add", second, third), ("Sub", third, second), ("Sub", second, fourth)
    return [graph.add(op, [a, b]) for op, a, b in pairs]


def _gathered(graph: Graph, products: list[str]) -> list[str]:
    """The two outputs of each four products in a row."""
    first, second, third, fourth = products
    total = graph.add("Add", [graph.add("Add", [second, third]), first])
    return [total, graph.add("Sub", [graph.add("Sub", [second, third]), fourth])]
