"""Training of small models, for estimators and demos: a spec as a module, one loop, and what it minimises.

It is no framework. A model trained anywhere else comes in by ``fastvae.load`` or ``fastvae.from_modules``.
"""

from fastvae.training.loop import fit, reproducible
from fastvae.training.module import SpecModule, kl_to_prior
from fastvae.training.objective import ELBO, Judgement, Objective, judge
from fastvae.training.recipe import Recipe
from fastvae.training.tabular import standardize, tabular_spec

__all__ = [
    "ELBO",
    "Judgement",
    "Objective",
    "Recipe",
    "SpecModule",
    "fit",
    "judge",
    "kl_to_prior",
    "reproducible",
    "standardize",
    "tabular_spec",
]
