"""Bulk jobs: any number of samples as files in a folder, each exactly once, resumable and verifiable.

>>> import fastvae.bulk
>>> report = fastvae.bulk.generate("mnist", 1_000_000, "samples", workers=2)
>>> fastvae.bulk.verify("samples", "mnist").ok
True
"""

from fastvae.bulk.generation import Report, generate
from fastvae.bulk.progress import Progress
from fastvae.bulk.verification import Verification, verify

__all__ = ["Progress", "Report", "Verification", "generate", "verify"]
