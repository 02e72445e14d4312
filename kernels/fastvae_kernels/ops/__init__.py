"""The ops: for each its schema, shape rule, dispatch and checked public function. Imports torch only."""

from .convolution_ends import conv2d_statistics
from .convolution_scores import conv_image, conv_score
from .convolutions import conv2d, conv_transpose2d
from .counts import categorical_nll, negative_binomial_nll, poisson_nll
from .dense import linear, linear_prior, quantize_rows
from .densities import continuous_bernoulli_nll, laplace_nll, student_t_nll
from .elbo_loss import ElboLoss, elbo_loss
from .images import attention, group_norm
from .latent import bottleneck, gaussian_head, split_head
from .layers import affine, logvar, to_bytes
from .likelihoods import bernoulli_nll, gaussian_nll, squared_error
from .noise import reparameterize, sample_normal, sample_uniform
from .norms import channel_statistics, norm_affine, norm_apply
from .scores import elbo, linear_score

__all__ = [
    "ElboLoss",
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
    "elbo",
    "elbo_loss",
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
    "poisson_nll",
    "quantize_rows",
    "reparameterize",
    "sample_normal",
    "sample_uniform",
    "split_head",
    "squared_error",
    "student_t_nll",
    "to_bytes",
]
