"""The matrix product that every dense op starts with, in the dtype it is accumulated in."""

import torch.nn.functional as F
from torch import Tensor

from .activation import activate_
from .precision import accumulation_dtype, ieee_float32, round_to_tf32

__all__ = ["activated_product"]


def activated_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str = "identity",
    alpha: float | None = None,
    precision: str = "ieee",
    x_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
) -> Tensor:
    """act((x @ weight.T) * x_scale[:, None] * weight_scale + bias), not yet rounded to an output's dtype.

    x [n, in], weight [out, in], bias [out] -> [n, out] in float32 (float64 for float64). Operands are made
    contiguous, because a BLAS takes another path, with other roundings, for other strides.
    """
    acc = accumulation_dtype(x.dtype)
    x, weight = x.to(acc).contiguous(), weight.to(acc).contiguous()
    bias = None if bias is None else bias.to(acc)
    if precision == "tf32":
        x, weight = round_to_tf32(x), round_to_tf32(weight)
    with ieee_float32(x):
        y = F.linear(x, weight, bias if x_scale is None else None)
    if x_scale is not None and weight_scale is not None:
        y *= x_scale[:, None]
        y *= weight_scale
        if bias is not None:
            y += bias
    return activate_(y, activation, alpha)
