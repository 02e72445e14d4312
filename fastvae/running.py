"""Running sums over draws, in float64 and in bounded memory, whose bits do not depend on how many draws come at once.

Draws are taken in groups of :data:`GROUP`, counted from the first, and a group is summed as a tree of elementwise
additions: the order of the additions to a row's sum follows from the number of draws alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 64
LARGEST = torch.finfo(torch.float64).max


def tree_sum(values: Tensor) -> Tensor:
    """The sum of ``values`` (draws, ...) over draws: halves are added to each other until one is left."""
    while len(values) > 1:
        half = (len(values) + 1) // 2
        first, second = values[:half].clone(), values[half:]
        first[: len(second)] += second
        values = first
    return values[0]


def log_add(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) + exp(b)), -inf where both are.

    ``torch.logaddexp`` rounds the last few numbers in memory in another way than the others.
    """
    peak = torch.maximum(a, b)
    finite = peak.clamp(min=-LARGEST)
    return peak + torch.log1p(torch.exp(torch.minimum(a, b) - finite))


class _Groups:
    """Draws (draws, rows) handed to ``_take`` in groups of GROUP; the last may be smaller."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.draws = 0
        self._held = torch.empty(GROUP, rows, dtype=torch.float64, device=device)

    def add(self, values: Tensor) -> None:
        """Add draws, (draws, rows)."""
        values = values.double()
        while len(values):
            held = self.draws % GROUP
            part, values = values[: GROUP - held], values[GROUP - held :]
            self.draws += len(part)
            if len(part) == GROUP:
                self._take(part)
                continue
            self._held[held : held + len(part)] = part
            if held + len(part) == GROUP:
                self._take(self._held)

    def finish(self) -> None:
        """Take what is left; nothing is added after it."""
        if left := self.draws % GROUP:
            self._take(self._held[:left])

    def _take(self, group: Tensor) -> None:
        raise NotImplementedError


class Moments(_Groups):
    """Mean and variance of numbers, merged group by group (Chan, Golub & LeVeque 1983)."""

    def __init__(self, rows: int, device: torch.device) -> None:
        super().__init__(rows, device)
        self._taken = 0
        self._total = torch.zeros(rows, dtype=torch.float64, device=device)
        self._squares = torch.zeros(rows, dtype=torch.float64, device=device)  # of deviations from the mean

    def _take(self, group: Tensor) -> None:
        count, total = len(group), tree_sum(group)
        mean = total / count
        self._squares = self._squares + tree_sum((group - mean).square())
        if self._taken:
            share = self._taken * count / (self._taken + count)
            self._squares = self._squares + (mean - self._total / self._taken).square() * share
        self._total = self._total + total
        self._taken += count

    @property
    def mean(self) -> Tensor:
        """(rows,)."""
        return self._total / self._taken

    @property
    def standard_error(self) -> Tensor:
        """Of the mean, (rows,), from the draws' own spread; NaN of a single draw."""
        return (self._squares / (self._taken - 1) / self._taken).sqrt() if self._taken > 1 else self.mean * torch.nan


class LogWeights(_Groups):
    """Positive weights that come as logarithms: the logarithm of their mean, its error, their effective number.

    Sums of weights and of squared weights are kept relative to the largest weight so far.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        super().__init__(rows, device)
        self._peak = torch.full((rows,), -LARGEST, dtype=torch.float64, device=device)
        self._sum = torch.zeros(rows, dtype=torch.float64, device=device)
        self._squares = torch.zeros(rows, dtype=torch.float64, device=device)

    def _take(self, group: Tensor) -> None:
        # Finite also where all weights are 0, or one is infinite: exp(inf - inf) is NaN.
        peak = torch.maximum(self._peak, group.amax(0)).clamp(max=LARGEST)
        before, weights = torch.exp(self._peak - peak), torch.exp(group - peak)
        self._sum = self._sum * before + tree_sum(weights)
        self._squares = self._squares * before.square() + tree_sum(weights.square())
        self._peak = peak

    @property
    def log_sum(self) -> Tensor:
        """log sum_k w_k, (rows,)."""
        return self._peak + self._sum.log()

    @property
    def log_mean(self) -> Tensor:
        """log (1/K sum_k w_k), (rows,)."""
        return self._peak + (self._sum / self.draws).log()

    @property
    def effective_sample_size(self) -> Tensor:
        """(sum_k w_k)^2 / sum_k w_k^2, (rows,), from 1 to the number of weights (Kong 1992)."""
        return self._sum.square() / self._squares

    @property
    def standard_error(self) -> Tensor:
        """Of ``log_mean``, (rows,), by the delta method: sd(w) / (sqrt(K) mean(w)); NaN of a single weight."""
        excess = (self.draws * self._squares / self._sum.square() - 1).clamp(min=0)
        return (excess / (self.draws - 1)).sqrt() if self.draws > 1 else excess * torch.nan
