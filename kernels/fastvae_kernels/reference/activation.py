"""The pointwise activations, applied in place to a tensor the caller owns."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["activate_", "softplus_"]


def softplus_(x: Tensor) -> Tensor:
    """log(1 + exp(x)) in place, as max(x, 0) + log1p(exp(-|x|)): exact in both tails, unlike a thresholded one."""
    tail = x.abs().neg_().exp_().log1p_()
    return x.clamp_min_(0).add_(tail)


def _gelu_(y: Tensor) -> Tensor:
    """x Φ(x) with Φ from erfc, whose relative accuracy survives the lower tail where 1 + erf cancels."""
    return y.mul_((y * -(0.5**0.5)).erfc_().mul_(0.5))


def activate_(y: Tensor, activation: str, alpha: float | None) -> Tensor:
    """Apply `activation` to `y` and return the result, which reuses `y`'s memory where PyTorch can.

    `alpha` is leaky_relu's negative slope (0.01 if None) or elu's alpha (1.0 if None).
    """
    match activation:
        case "identity":
            return y
        case "relu":
            return y.relu_()
        case "leaky_relu":
            return F.leaky_relu_(y, 0.01 if alpha is None else alpha)
        case "elu":
            return F.elu_(y, 1.0 if alpha is None else alpha)
        case "selu":
            return F.selu_(y)
        case "gelu":
            return _gelu_(y)
        case "gelu_tanh":
            return F.gelu(y, approximate="tanh")
        case "silu":
            return F.silu(y, inplace=True)
        case "tanh":
            return y.tanh_()
        case "sigmoid":
            return y.sigmoid_()
        case "softplus":
            return softplus_(y)
    raise AssertionError(f"unvalidated activation {activation!r}")
