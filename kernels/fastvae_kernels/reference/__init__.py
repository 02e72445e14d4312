"""Reference implementations: plain PyTorch, one file per op. They define what the ops mean."""

from .affine import affine
from .attention import attention
from .bernoulli_nll import bernoulli_nll
from .bottleneck import bottleneck
from .categorical_nll import categorical_nll
from .channel_statistics import channel_statistics
from .continuous_bernoulli_nll import continuous_bernoulli_nll
from .conv2d import conv2d
from .conv2d_statistics import conv2d_statistics
from .conv_image import conv_image
from .conv_score import conv_score
from .conv_transpose2d import conv_transpose2d
from .elbo import elbo
from .elbo_loss import divergence, elbo_loss, elbo_loss_backward
from .gaussian_head import gaussian_head
from .gaussian_nll import gaussian_nll
from .group_norm import group_norm
from .laplace_nll import laplace_nll
from .linear import linear
from .linear_prior import linear_prior
from .linear_score import linear_score
from .logvar import logvar
from .negative_binomial_nll import negative_binomial_nll
from .norm_affine import norm_affine
from .norm_apply import norm_apply
from .philox import philox4x32
from .poisson_nll import poisson_nll
from .quantize_rows import quantize_rows
from .reparameterize import reparameterize
from .sample_normal import sample_normal, sample_uniform
from .squared_error import squared_error
from .student_t_nll import student_t_nll
from .to_bytes import to_bytes

__all__ = [
    "affine",
    "attention",
    "bernoulli_nll",
    "bottleneck",
    "categorical_nll",
    "channel_statistics",
    "continuous_bernoulli_nll",
    "conv2d",
    "conv2d_statistics",
    "conv_image",
    "conv_score",
    "conv_transpose2d",
    "divergence",
    "elbo",
    "elbo_loss",
    "elbo_loss_backward",
    "gaussian_head",
    "gaussian_nll",
    "group_norm",
    "laplace_nll",
    "linear",
    "linear_prior",
    "linear_score",
    "logvar",
    "negative_binomial_nll",
    "norm_affine",
    "norm_apply",
    "philox4x32",
    "poisson_nll",
    "quantize_rows",
    "reparameterize",
    "sample_normal",
    "sample_uniform",
    "squared_error",
    "student_t_nll",
    "to_bytes",
]
