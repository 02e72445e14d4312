"""The ops of the fastvae engine, usable on their own from any PyTorch code.

Every op has a reference implementation in plain PyTorch, which defines it, and some have a Triton one. Importing
this package imports torch and nothing else.
"""

from .checks import ACTIVATIONS
from .dispatch import implementations, resolve_impl
from .errors import UnavailableError
from .ops import (
    affine,
    bernoulli_nll,
    conv2d,
    conv_transpose2d,
    gaussian_nll,
    linear,
    logvar,
    reparameterize,
    sample_normal,
    sample_uniform,
    squared_error,
)

__all__ = [
    "ACTIVATIONS",
    "UnavailableError",
    "affine",
    "bernoulli_nll",
    "conv2d",
    "conv_transpose2d",
    "gaussian_nll",
    "implementations",
    "linear",
    "logvar",
    "reparameterize",
    "resolve_impl",
    "sample_normal",
    "sample_uniform",
    "squared_error",
]
