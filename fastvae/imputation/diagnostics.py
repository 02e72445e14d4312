"""How far imputations can be trusted, and the warning when they cannot."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastvae.arrays import Array, to_kind
from fastvae.errors import ImputationWarning
from fastvae.imputation.request import Imputer

# With n effective samples the sampling adds about 1/n to the squared error of a best guess.
LEAST = 5
# Share of the rows with something missing from which on a call warns.
WARN_SHARE = 0.1


@dataclass(frozen=True)
class Imputation:
    """Imputed rows, and how far they can be trusted; arrays of the kind that the rows came in.

    Attributes:
        values: what :meth:`fastvae.VAE.impute` returns otherwise.
        effective_samples: (rows,), of ``importance``: Kish's effective number of samples of the last round, (sum w)^2 /
            sum w^2 over its weights w; from 1, one sample outweighs all others, to ``samples``, all weigh the same; 0
            if no sample explains the observed entries. Sampling adds about 1 in so many to the squared error.
        acceptance_rate: (rows,), of ``metropolis``: the share of proposals accepted after burn-in.
        unreliable: (rows,), boolean: rows with something missing whose values rest on fewer than 5 effective samples or
            accepted proposals, or a tenth of the samples taken if that is fewer. Of ``gibbs`` nothing can tell.
    """

    values: Array
    effective_samples: Array | None
    acceptance_rate: Array | None
    unreliable: Array


def with_diagnostics(values: Array, imputer: Imputer, trust: Tensor, incomplete: Tensor, example: Any) -> Imputation:
    """An Imputation of ``values``, in the kind of ``example``.

    ``trust`` (rows,) is what :func:`~fastvae.imputation.impute_block` says of them, anything for ``gibbs``;
    ``incomplete`` (rows,) is True where something was missing.
    """
    counted = trust * imputer.kept if imputer.method == "metropolis" else trust
    unreliable = incomplete & (counted < least(imputer)) & (imputer.method != "gibbs")
    return Imputation(
        values,
        to_kind(trust, example) if imputer.method == "importance" else None,
        to_kind(trust, example) if imputer.method == "metropolis" else None,
        to_kind(unreliable, example),
    )


def least(imputer: Imputer) -> float:
    """The effective samples, or accepted proposals, that a row's values need to be trusted."""
    taken = imputer.samples if imputer.method == "importance" else imputer.kept
    return max(1, min(LEAST, taken / 10))


def advice(imputer: Imputer, unreliable: int, incomplete: int) -> str | None:
    """What to tell the user if more than a tenth of the ``incomplete`` rows are ``unreliable``; None otherwise."""
    if unreliable <= WARN_SHARE * incomplete:
        return None
    if imputer.method == "importance":
        what = f"rest on fewer than {least(imputer):g} effective samples of {imputer.samples}"
        remedy = "take more samples, or method 'metropolis'; 1 round for an encoder trained on incomplete rows"
    else:
        what = f"accepted fewer than {least(imputer):g} of {imputer.kept} proposals"
        remedy = "take more samples"
    return f"{unreliable:,} of {incomplete:,} rows with missing entries {what}: {remedy}"


def warn_of(imputation: Imputation, imputer: Imputer, incomplete: int, *, stacklevel: int) -> None:
    """Warn once if the imputations of too many of the ``incomplete`` rows are unreliable."""
    message = advice(imputer, int(imputation.unreliable.sum()), incomplete)
    if message is not None:
        warnings.warn(f"impute: {message}; diagnostics=True says which", ImputationWarning, stacklevel=stacklevel + 1)
