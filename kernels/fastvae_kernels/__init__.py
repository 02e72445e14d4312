"""The ops of the fastvae engine, usable on their own from any PyTorch code.

Every op has a reference implementation in plain PyTorch, which defines it, and some have a Triton one. Importing
this package imports torch and nothing else.
"""

from .checks import ACTIVATIONS
from .dispatch import implementations, resolve_impl
from .errors import UnavailableError
from .ops import (
    affine,
    attention,
    bernoulli_nll,
    bottleneck,
    channel_statistics,
    conv2d,
    conv2d_statistics,
    conv_image,
    conv_score,
    conv_transpose2d,
    elbo,
    gaussian_head,
    gaussian_nll,
    group_norm,
    linear,
    linear_prior,
    linear_score,
    logvar,
    norm_affine,
    norm_apply,
    quantize_rows,
    reparameterize,
    sample_normal,
    sample_uniform,
    split_head,
    squared_error,
)

__all__ = [
    "ACTIVATIONS",
    "UnavailableError",
    "affine",
    "attention",
    "bernoulli_nll",
    "bottleneck",
    "channel_statistics",
    "conv2d",
    "conv2d_statistics",
    "conv_image",
    "conv_score",
    "conv_transpose2d",
    "elbo",
    "gaussian_head",
    "gaussian_nll",
    "group_norm",
    "implementations",
    "linear",
    "linear_prior",
    "linear_score",
    "logvar",
    "norm_affine",
    "norm_apply",
    "quantize_rows",
    "reparameterize",
    "resolve_impl",
    "sample_normal",
    "sample_uniform",
    "split_head",
    "squared_error",
]
