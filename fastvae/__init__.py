"""fastvae: generate, encode, reconstruct, score and impute with a trained variational autoencoder, fast.

>>> import fastvae
>>> vae = fastvae.load("digits")
>>> vae.generate(2, seed=0).shape
(2, 1, 8, 8)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fastvae import errors

if TYPE_CHECKING:
    from fastvae.api import VAE
    from fastvae.embedded import ModelCard, models
    from fastvae.evidence import LogLikelihood, MeanLogLikelihood
    from fastvae.imputation import Imputation
    from fastvae.loading import from_modules, load
    from fastvae.posterior import Posterior
    from fastvae.scaling import LatentScaling
    from fastvae.spec import ModelSpec

__version__ = "0.1.0"
__all__ = [
    "VAE",
    "Imputation",
    "LatentScaling",
    "LogLikelihood",
    "MeanLogLikelihood",
    "ModelCard",
    "ModelSpec",
    "Posterior",
    "errors",
    "from_modules",
    "load",
    "models",
]

# Where each name is. They are imported when first asked for, and PyTorch with them: most of the time that the command
# line takes to begin.
_HOMES = {
    "VAE": "api",
    "Imputation": "imputation",
    "LatentScaling": "scaling",
    "LogLikelihood": "evidence",
    "MeanLogLikelihood": "evidence",
    "ModelCard": "embedded",
    "ModelSpec": "spec",
    "Posterior": "posterior",
    "from_modules": "loading",
    "load": "loading",
    "models": "embedded",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastvae' has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f"fastvae.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
