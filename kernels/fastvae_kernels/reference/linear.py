"""Defines `linear`: a matrix product with bias and activation."""

import torch.nn.functional as F
from torch import Tensor

from .activation import activate_
from .precision import accumulation_dtype, ieee_float32

__all__ = ["linear"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, alpha: float | None) -> Tensor:
    """act(x @ weight.T + bias); x [n, in], weight [out, in], bias [out] -> [n, out].

    Operands are made contiguous, because a BLAS takes another path, with other roundings, for other strides.
    """
    acc = accumulation_dtype(x.dtype)
    bias = None if bias is None else bias.to(acc)
    with ieee_float32(x):
        y = F.linear(x.to(acc).contiguous(), weight.to(acc).contiguous(), bias)
    return activate_(y, activation, alpha).to(x.dtype)
