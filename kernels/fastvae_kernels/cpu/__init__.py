"""Implementations for CPUs of what PyTorch alone makes slow there, compiled from C; noise has the reference's bits."""

from .dense_rows import GIVEN, DenseCall, DenseSteps, Values
from .divergence import divergence_gradients
from .elbo_loss import elbo_loss, elbo_loss_backward
from .elbo_step import elbo_step
from .library import why_not
from .reparameterize import reparameterize
from .sample_normal import fill_normal, sample_normal, sample_uniform
from .weighted_words import add_weighted_words

__all__ = [
    "GIVEN",
    "DenseCall",
    "DenseSteps",
    "Values",
    "add_weighted_words",
    "divergence_gradients",
    "elbo_loss",
    "elbo_loss_backward",
    "elbo_step",
    "fill_normal",
    "reparameterize",
    "sample_normal",
    "sample_uniform",
    "why_not",
]
