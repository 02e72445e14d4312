"""fastvae: generate, encode, reconstruct, score and impute with a trained variational autoencoder, fast.

>>> import fastvae
>>> vae = fastvae.load("digits")
>>> vae.generate(2, seed=0).shape
(2, 1, 8, 8)
"""

from fastvae import errors
from fastvae.api import VAE
from fastvae.embedded import ModelCard, models
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
    "ModelCard",
    "ModelSpec",
    "Posterior",
    "errors",
    "from_modules",
    "load",
    "models",
]
