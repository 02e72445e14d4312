"""Output heads at run time: what the parameters a decoder makes mean, and how to draw from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvae.errors import UnsupportedError
from fastvae.heads import Bernoulli, Likelihood, Mixed, Multinomial
from fastvae.likelihoods.draws import RECIPES, Recipe, multinomial
from fastvae.likelihoods.means import expectation
from fastvae.likelihoods.noise import Noise, whole_blocks
from fastvae.likelihoods.operands import OPERANDS, constants
from fastvae.likelihoods.support import Support, supports
from fastvae.model import Model

# A multinomial is drawn one by one: so many draws a row.
MOST_DRAWS = 2**16


@dataclass(frozen=True)
class OutputHead:
    """p(x|z) of one model, from the tensors its ``parameters`` plan returns.

    ``constants`` are those parameters that no row changes: scalars, or of a row's shape. ``parts`` are the segments'
    heads of a mixed likelihood, and ``columns`` of a row are its own.
    """

    likelihood: Likelihood
    constants: Mapping[str, Tensor]
    parts: tuple[OutputHead, ...] = ()
    columns: int = 0

    @property
    def unit_interval(self) -> bool:
        """Whether the data are probabilities, from 0 to 1, as pixels are."""
        return isinstance(self.likelihood, Bernoulli)

    @property
    def supports(self) -> tuple[Support, ...]:
        """Which values the data may have, where not any."""
        return supports(self.likelihood)

    def mean(self, parameters: Sequence[Tensor]) -> Tensor:
        """E[x|z], shape (rows, *input_shape)."""
        if self.parts:
            return torch.cat([head.mean(own) for head, own in self._split(parameters)], 1)
        p = self._named(parameters)
        return expectation(p["location"], p.get("zero_logits"), likelihood=self.likelihood.kind)

    def best_guess(self, mean: Tensor) -> Tensor:
        """``mean`` (rows, *input_shape) with the most probable category, of equals the first, in one-hot columns."""
        guess = mean
        for support in self.supports:
            if support.values == "one-hot":
                guess = guess.clone() if guess is mean else guess
                own = support.of(guess)
                own[:] = torch.nn.functional.one_hot(own.argmax(1), own.shape[1])
        return guess

    def sample(self, parameters: Sequence[Tensor], *, seed: int, start: int, stream: int) -> Tensor:
        """One draw x ~ p(x|z) per row, shape (rows, *input_shape); row ``i`` uses the noise of ``start + i``.

        Raises:
            UnsupportedError: a multinomial's total is no whole number, or larger than what is drawn one by one.
        """
        first = parameters[0]
        words = self._words(first[:1].numel() if len(first) else 0)
        return self._draw(parameters, Noise(len(first), words, seed, start, stream, first.device))

    def _draw(self, parameters: Sequence[Tensor], noise: Noise) -> Tensor:
        if not self.parts:
            return self._recipe().draw(self._named(parameters), noise)
        drawn, first = [], 0
        for head, own in self._split(parameters):
            drawn.append(head._draw(own, noise.part(first)))
            first += whole_blocks(head._words(head.columns))
        return torch.cat(drawn, 1)

    def _words(self, size: int) -> int:
        """Words of noise for a row of ``size`` entries."""
        if self.parts:
            return sum(whole_blocks(head._words(head.columns)) for head in self.parts)
        if isinstance(self.likelihood, Multinomial):
            return int(self.likelihood.library_size)
        return size * self._recipe().words

    def _recipe(self) -> Recipe:
        if not isinstance(self.likelihood, Multinomial):
            return RECIPES[self.likelihood.kind]
        total = self.likelihood.library_size
        if total > MOST_DRAWS or total != math.floor(total):
            raise UnsupportedError(
                f"sample: a multinomial is drawn {MOST_DRAWS} times a row at most, and a whole number of times, its "
                f"library_size is {total:g}; ask for the mean"
            )
        return multinomial(int(total))

    def _named(self, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        """All parameters by name: what differs from row to row in its order, and constants."""
        given = iter(parameters)
        found = dict(self.constants)
        for name in OPERANDS[self.likelihood.kind].names:
            if name not in found and (value := next(given, None)) is not None:
                found[name] = value
        return found

    def _split(self, parameters: Sequence[Tensor]) -> list[tuple[OutputHead, Sequence[Tensor]]]:
        """Each part with its parameters."""
        found, low = [], 0
        for head in self.parts:
            high = low + head.likelihood.row_parameters
            found.append((head, parameters[low:high]))
            low = high
        return found


def output_head(model: Model) -> OutputHead:
    """The head of ``model``'s likelihood."""
    likelihood = model.spec.likelihood
    parts: tuple[OutputHead, ...] = ()
    if isinstance(likelihood, Mixed):
        parts = tuple(
            OutputHead(segment.likelihood, constants(segment.likelihood, model.weights), (), segment.columns)
            for segment in likelihood.segments
        )
    return OutputHead(likelihood, constants(likelihood, model.weights), parts)
