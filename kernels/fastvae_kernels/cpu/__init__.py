"""Implementations for CPUs, with the bits of the reference: what PyTorch alone makes slow there."""

from .reparameterize import reparameterize
from .sample_normal import sample_normal, sample_uniform

__all__ = ["reparameterize", "sample_normal", "sample_uniform"]
