"""Executing plans: ``Engine`` runs a model's verbs on tensors, in bounded memory and a stated precision."""

from fastvae.runtime.engine import Engine
from fastvae.runtime.settings import Settings

__all__ = ["Engine", "Settings"]
