"""What a model's latents mean: walks through them, arithmetic, collapse, and how well they separate known factors.

NumPy in, NumPy out. Imported by no other import of fastvae: ``from fastvae.representation import diagnose``.
"""

from fastvae.representation.arithmetic import along, attribute_vector
from fastvae.representation.collapse import Diagnosis, active_units, diagnose, diagnose_posterior
from fastvae.representation.disentanglement import DCI, Separation, dci, mig, sap
from fastvae.representation.traversal import traverse

__all__ = [
    "DCI",
    "Diagnosis",
    "Separation",
    "active_units",
    "along",
    "attribute_vector",
    "dci",
    "diagnose",
    "diagnose_posterior",
    "mig",
    "sap",
    "traverse",
]
