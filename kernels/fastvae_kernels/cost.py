"""What an op must do at least: floating-point operations, and bytes that cross memory once. Shapes alone decide."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Cost", "flops", "op_cost"]

Shape = Sequence[int]


@dataclass(frozen=True)
class Cost:
    """flops: operations, a multiply-add counting as two. bytes: every operand read and every result written once."""

    flops: int
    bytes: int


def flops(op: str, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> int:
    """Floating-point operations of `op` on operands of these shapes, given in the order of its parameters.

    A multiply-add of a matrix product or a convolution counts as two; everything elementwise, fused or not,
    counts one for each entry of the largest operand, and only where there is no product.
    """
    shapes = [tuple(shape) for shape in inputs if shape is not None]
    if op in ("linear", "linear_score"):
        (n, size), (width, _) = shapes[:2]
        return 2 * n * size * width
    if op == "linear_prior":
        width, size = shapes[0]
        return 2 * outputs[0][0] * size * width
    if op == "gaussian_head":
        (n, size), (latent, _) = shapes[:2]
        return 4 * n * size * latent
    if op == "bottleneck":
        (n, size), (latent, _) = shapes[:2]
        return 4 * n * size * latent + 2 * n * latent * outputs[0][1]
    if op == "conv_score":
        return 2 * shapes[0][0] * math.prod((inputs[3] or ())[1:]) * math.prod(shapes[1][1:])
    if op in ("conv2d", "conv2d_statistics", "conv_image"):
        return 2 * math.prod(outputs[0]) * math.prod(shapes[1][1:])
    if op == "conv_transpose2d":
        return 2 * math.prod(shapes[0]) * math.prod(shapes[1][1:])
    if op == "attention":
        q, k, v = shapes
        return 2 * q[0] * math.prod(q[2:]) * math.prod(k[2:]) * (k[1] + v[1])
    return max((math.prod(shape) for shape in (*shapes, *outputs)), default=0)


def op_cost(op: str, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> Cost:
    """The cost of `op` on these tensors, which may be on the meta device; inputs in the order of its parameters."""
    operands = [x for x in inputs if x is not None]
    work = flops(op, [None if x is None else x.shape for x in inputs], [y.shape for y in outputs])
    return Cost(work, sum(t.numel() * t.element_size() for t in (*operands, *outputs)))
