"""Defines `linear`: a matrix product with bias, activation and residual."""

import torch
from torch import Tensor

from .product import activated_product

__all__ = ["linear"]


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    alpha: float | None,
    precision: str,
    x_scale: Tensor | None,
    weight_scale: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    """act((x @ weight.T) scales + bias) + residual, rounded once; x [n, in], weight [out, in] -> [n, out]."""
    y = activated_product(x, weight, bias, activation, alpha, precision, x_scale, weight_scale)
    if residual is not None:
        y += residual
    return y.to(out_dtype)
