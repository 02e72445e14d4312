"""Which values a likelihood's data may have, and which rows hold others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from fastvae.heads import Bernoulli, Categorical, ContinuousBernoulli, Counts, Likelihood, Mixed

Values: TypeAlias = Literal["real", "unit interval", "counts", "one-hot"]


@dataclass(frozen=True)
class Support:
    """The values of columns ``first`` to ``last`` of a row, the last not included; None for all of a row."""

    values: Values
    columns: tuple[int, int] | None = None

    def of(self, block: Tensor) -> Tensor:
        """What it says of rows (rows, ...), flattened: (rows, columns)."""
        flat = block.flatten(1)
        return flat if self.columns is None else flat[:, slice(*self.columns)]

    def outside(self, block: Tensor, *, missing: bool = False) -> Tensor:
        """Boolean (rows,): which rows hold values that are not allowed. NaN and Inf are for others to judge.

        Where NaN marks ``missing`` entries, one-hot columns are missing all together or not at all.
        """
        own = self.of(block)
        found = OUTSIDE[self.values](own)
        if self.values == "one-hot":
            holes = ~own.isfinite()
            found &= ~(holes.all(1) if missing else holes.any(1))
        return found

    def refusal(self, row: Tensor) -> str:
        """What is wrong with a row (1, ...), and what was expected."""
        own = self.of(row)
        own = own[own.isfinite()]
        where = "" if self.columns is None else f", in columns {self.columns[0]} to {self.columns[1] - 1},"
        if self.values == "unit interval":
            least, most = (float(value) for value in own.aminmax())
            hint = "; divide by the largest value a pixel can have, e.g. 255" if most > 1 else ""
            return f"this model's data lie in [0, 1], got values from {least:g} to {most:g}{where}{hint}"
        if self.values == "counts":
            bad = float(own[(own < 0) | (own != own.floor())][0])
            return f"this model's data are counts, whole numbers from 0{where} got {bad:g}"
        shown = ", ".join(f"{float(value):g}" for value in own[:8])
        return f"this model's categories are one-hot columns, one of them 1 and the others 0{where} got {shown}"


UNIT_INTERVAL = Support("unit interval")


def _not_unit(x: Tensor) -> Tensor:
    return (((x < 0) | (x > 1)) & x.isfinite()).any(1)


def _not_counts(x: Tensor) -> Tensor:
    return (((x < 0) | (x != x.floor())) & x.isfinite()).any(1)


def _not_one_hot(x: Tensor) -> Tensor:
    return ~(((x == 0) | (x == 1)).all(1) & (x.sum(1) == 1))


OUTSIDE: dict[Values, Callable[[Tensor], Tensor]] = {
    "unit interval": _not_unit,
    "counts": _not_counts,
    "one-hot": _not_one_hot,
}


def supports(likelihood: Likelihood) -> tuple[Support, ...]:
    """What a row of data has to be: of one kind, or of one for each segment. Columns of any numbers are left out."""
    if isinstance(likelihood, Mixed):
        found = ((_values(segment.likelihood), columns) for segment, columns, _ in likelihood.spans())
        return tuple(Support(values, columns) for values, columns in found if values != "real")
    values = _values(likelihood)
    return () if values == "real" else (Support(values),)


def _values(likelihood: Likelihood) -> Values:
    if isinstance(likelihood, Bernoulli | ContinuousBernoulli):
        return "unit interval"
    if isinstance(likelihood, Counts):
        return "counts"
    return "one-hot" if isinstance(likelihood, Categorical) else "real"
