"""Bulk jobs: any number of rows as files in a folder, each exactly once, resumable and verifiable.

Rows are samples (:func:`generate`), or what a model makes of a data set (:func:`encode`, :func:`reconstruct`,
:func:`score`).

>>> import fastvae.bulk
>>> report = fastvae.bulk.generate("mnist", 1_000_000, "samples", workers=2)
>>> fastvae.bulk.verify("samples", "mnist").ok
True
"""

from fastvae.bulk.datasets import encode, reconstruct, rejected, score
from fastvae.bulk.generation import Report, generate
from fastvae.bulk.progress import Progress
from fastvae.bulk.table import Rejected
from fastvae.bulk.verification import Verification, verify
from fastvae.files import ReadOptions

__all__ = [
    "Progress",
    "ReadOptions",
    "Rejected",
    "Report",
    "Verification",
    "encode",
    "generate",
    "reconstruct",
    "rejected",
    "score",
    "verify",
]
