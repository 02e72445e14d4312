"""`attention` by PyTorch's scaled_dot_product_attention, which picks among kernels of its own."""

import torch.nn.functional as F
from torch import Tensor

from ..layout import output_format, own_output
from ..reference.precision import ieee_float32

__all__ = ["attention"]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """As the reference defines it: q [n, c, h, w], k [n, c, h', w'], v [n, e, h', w'] -> [n, e, h, w]."""
    size = q.shape[2:]
    with ieee_float32(q):
        found = F.scaled_dot_product_attention(_pixels(q, heads), _pixels(k, heads), _pixels(v, heads))
    return own_output(found.transpose(2, 3).reshape(q.shape[0], v.shape[1], *size), q)


def _pixels(x: Tensor, heads: int) -> Tensor:
    """[n, c, h, w] as [n, heads, h*w, c/heads]."""
    n, channels, h, w = x.shape
    image = x.contiguous(memory_format=output_format(x))
    return image.view(n, heads, channels // heads, h * w).transpose(2, 3)
