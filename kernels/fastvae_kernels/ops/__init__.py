"""The ops: for each its schema, shape rule, dispatch and checked public function. Imports torch only."""

from .convolutions import conv2d, conv_transpose2d
from .layers import affine, linear, logvar
from .likelihoods import bernoulli_nll, gaussian_nll, squared_error
from .noise import reparameterize, sample_normal, sample_uniform

__all__ = [
    "affine",
    "bernoulli_nll",
    "conv2d",
    "conv_transpose2d",
    "gaussian_nll",
    "linear",
    "logvar",
    "reparameterize",
    "sample_normal",
    "sample_uniform",
    "squared_error",
]
