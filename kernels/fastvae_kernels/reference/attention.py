"""Defines `attention`: for each pixel a mean of others' values, weighted by a softmax of products of channels."""

import torch
from torch import Tensor

from ..layout import empty_output, output_format
from .precision import accumulation_dtype, ieee_float32

__all__ = ["SCORE_BYTES", "attention"]

SCORE_BYTES = 2**26
"""The most that the scores held at once may take, one query of one image aside."""


def _pixels(x: Tensor, heads: int) -> Tensor:
    """[n, c, h, w], dense in either memory format, as a view [n, heads, h*w, c/heads]."""
    n, channels, h, w = x.shape
    return x.view(n, heads, channels // heads, h * w).transpose(2, 3)


def _block(x: Tensor, rows: slice, heads: int, acc: torch.dtype) -> Tensor:
    """`_pixels` of some images, in the dtype computed in."""
    return _pixels(x[rows].to(acc).contiguous(memory_format=output_format(x)), heads)


def _weighted_mean(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T) v of [..., queries, d], [..., keys, d] and [..., keys, e]; the scores are one tensor."""
    scores = q @ k.transpose(-1, -2)
    scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    return (scores @ v).div_(scores.sum(-1, keepdim=True))


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(c / heads)) v over k's pixels, for each head, a run of consecutive channels.

    q [n, c, h, w], k [n, c, h', w'], v [n, e, h', w'] -> [n, e, h, w]. Goes over blocks of whole images or, where one
    image's scores take more than `SCORE_BYTES`, of its queries.
    """
    acc = accumulation_dtype(q.dtype)
    out = empty_output(q, (q.shape[0], v.shape[1], *q.shape[2:]))
    result, queries, keys = _pixels(out, heads), q.shape[2:].numel(), k.shape[2:].numel()
    query_bytes = heads * keys * acc.itemsize
    images = max(SCORE_BYTES // max(queries * query_bytes, 1), 1)
    height = max(SCORE_BYTES // query_bytes, 1)
    with ieee_float32(q):
        for first in range(0, q.shape[0], images):
            rows = slice(first, first + images)
            scaled = _block(q, rows, heads, acc) * (q.shape[1] // heads) ** -0.5
            keyed, valued = _block(k, rows, heads, acc), _block(v, rows, heads, acc)
            for top in range(0, queries, height):
                part = slice(top, top + height)
                result[rows, :, part] = _weighted_mean(scaled[:, :, part], keyed, valued)
    return out
