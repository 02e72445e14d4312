"""What ``fastvae impute`` says of how far its values can be trusted."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fastvae.cli.work import Rows
from fastvae.errors import ImputationWarning
from fastvae.imputation import Imputation, Imputer, advice


class Trust:
    """The diagnostics of rows with something missing, collected block by block; as text, the end of a line."""

    def __init__(self, imputer: Imputer) -> None:
        self._imputer = imputer
        self._values: list[Rows] = []
        self._incomplete = self._unreliable = 0

    @contextmanager
    def instead_of_warnings(self) -> Iterator[None]:
        """One line at the end says what every block's warning would."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImputationWarning)
            yield

    def add(self, found: Imputation, missing: Rows) -> None:
        """Take in one block, of which ``missing`` (rows, ...) is True where entries were."""
        incomplete = missing.reshape(len(missing), -1).any(1) if len(missing) else np.zeros(0, dtype=bool)
        self._incomplete += int(incomplete.sum())
        self._unreliable += int(found.unreliable.sum())
        values = found.effective_samples if found.acceptance_rate is None else found.acceptance_rate
        if values is not None:
            self._values.append(values[incomplete])

    def __str__(self) -> str:
        values = np.concatenate(self._values) if self._values else np.empty(0)
        if not len(values):
            return ""
        least, median = float(values.min()), float(np.median(values))
        if self._imputer.method == "importance":
            text = f"; effective samples of {self._imputer.samples} a row: median {median:.0f}, least {least:.0f}"
        else:
            text = f"; proposals accepted: median {median:.0%}, least {least:.0%}"
        warning = advice(self._imputer, self._unreliable, self._incomplete)
        return text if warning is None else f"{text}; warning: {warning}"
