"""Implementations for CPUs of what PyTorch alone makes slow there; noise has the bits of the reference."""

from .elbo_loss import elbo_loss, elbo_loss_backward
from .reparameterize import reparameterize
from .sample_normal import sample_normal, sample_uniform

__all__ = ["elbo_loss", "elbo_loss_backward", "reparameterize", "sample_normal", "sample_uniform"]
