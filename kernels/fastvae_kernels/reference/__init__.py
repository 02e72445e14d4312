"""Reference implementations: plain PyTorch, one file per op. They define what the ops mean."""

from .affine import affine
from .bernoulli_nll import bernoulli_nll
from .conv2d import conv2d
from .conv_transpose2d import conv_transpose2d
from .gaussian_nll import gaussian_nll
from .linear import linear
from .logvar import logvar
from .philox import philox4x32
from .reparameterize import reparameterize
from .sample_normal import sample_normal, sample_uniform
from .squared_error import squared_error

__all__ = [
    "affine",
    "bernoulli_nll",
    "conv2d",
    "conv_transpose2d",
    "gaussian_nll",
    "linear",
    "logvar",
    "philox4x32",
    "reparameterize",
    "sample_normal",
    "sample_uniform",
    "squared_error",
]
