"""Filling in missing entries from what the model makes of the observed ones.

All three methods draw z given the observed entries of a row and ask the decoder for the rest:

* ``importance``: self-normalised importance sampling with q(z | filled row) as proposal, the row refilled and
  proposed from again for a few rounds (MIWAE's estimator; Mattei & Frellsen 2019).
* ``gibbs``: pseudo-Gibbs, z ~ q(z | filled row) and then x_missing ~ p(x | z) (Rezende et al. 2014). An encoder
  that meets a row unlike any it was trained on may throw z ever further out, so z is kept to the ball that holds
  all but 1e-9 of the prior, or of the nearest component of one that is a mixture.
* ``metropolis``: the same proposals, accepted by Metropolis-Hastings, so that the chain is exact
  (Metropolis-within-Gibbs; Mattei & Frellsen 2018).
"""

from fastvae.imputation.blocks import impute_rows
from fastvae.imputation.diagnostics import Imputation, advice, warn_of, with_diagnostics
from fastvae.imputation.request import METHODS, Imputer

__all__ = ["METHODS", "Imputation", "Imputer", "advice", "impute_rows", "warn_of", "with_diagnostics"]
