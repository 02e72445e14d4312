"""Executing plans: ``Engine`` runs a model's verbs on tensors, in bounded memory and a stated precision."""

from fastvae.runtime.engine import Engine, Settings

__all__ = ["Engine", "Settings"]
