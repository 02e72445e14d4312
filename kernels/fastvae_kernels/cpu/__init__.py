"""Implementations for CPUs of what PyTorch alone makes slow there, compiled from C; noise has the reference's bits."""

from .divergence import divergence_gradients
from .elbo_loss import elbo_loss, elbo_loss_backward
from .elbo_step import elbo_step
from .library import has_wide_products, why_not
from .program_call import ProgramCall
from .reparameterize import reparameterize
from .row_program import RowProgram, Values
from .sample_normal import fill_normal, sample_normal, sample_uniform
from .step_table import GIVEN, StepTable
from .weighted_words import add_weighted_words
from .windows import Image, Padding, Windows, convolution, padding_for, transposed

__all__ = [
    "GIVEN",
    "Image",
    "Padding",
    "ProgramCall",
    "RowProgram",
    "StepTable",
    "Values",
    "Windows",
    "add_weighted_words",
    "convolution",
    "divergence_gradients",
    "elbo_loss",
    "elbo_loss_backward",
    "elbo_step",
    "fill_normal",
    "has_wide_products",
    "padding_for",
    "reparameterize",
    "sample_normal",
    "sample_uniform",
    "transposed",
    "why_not",
]
