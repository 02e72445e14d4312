"""Which op scores a likelihood, what it calls the parameters, and those of them that no row changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

import fastvae_kernels
from fastvae.heads import Fixed, FixedGaussian, Likelihood, Parametric, PerDimension, PerDimensionGaussian


@dataclass(frozen=True)
class Operands:
    """``op`` of ``fastvae_kernels`` and the parameters it takes, the location first.

    ``sources`` says under which name a likelihood's spec has the others.
    """

    op: str
    names: tuple[str, ...]
    sources: Mapping[str, str] = field(default_factory=dict)

    def of(self, source: str) -> str:
        """What the op calls the parameter that the spec calls ``source``."""
        return self.sources[source]


_GAUSSIAN = Operands("gaussian_nll", ("location", "logvar"))
_COUNTS = {"dispersion": "log_dispersion", "zero_inflation": "zero_logits"}
OPERANDS: dict[str, Operands] = {
    "bernoulli": Operands("bernoulli_nll", ("location",)),
    "gaussian_fixed": _GAUSSIAN,
    "gaussian_per_dimension": _GAUSSIAN,
    "gaussian_predicted": _GAUSSIAN,
    "laplace": Operands("laplace_nll", ("location", "log_scale"), {"scale": "log_scale"}),
    "student_t": Operands("student_t_nll", ("location", "log_scale", "log_df"), {"scale": "log_scale", "df": "log_df"}),
    "continuous_bernoulli": Operands("continuous_bernoulli_nll", ("location",)),
    "poisson": Operands("poisson_nll", ("location", "zero_logits"), _COUNTS),
    "negative_binomial": Operands("negative_binomial_nll", ("location", "log_dispersion", "zero_logits"), _COUNTS),
    "multinomial": Operands("poisson_nll", ("location",)),
    "categorical": Operands("categorical_nll", ("location",)),
}


def constants(likelihood: Likelihood, weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Parameters that no row changes, in float64, as the op has them: scalars, or of a row's shape.

    ``weights`` are called ``prefix`` and their name in the spec.
    """
    if isinstance(likelihood, FixedGaussian):
        return {"logvar": torch.tensor(likelihood.variance, dtype=torch.float64).log()}
    if isinstance(likelihood, PerDimensionGaussian):
        raw = weights[f"{prefix}{likelihood.name}"]
        return {"logvar": _logvar(raw, likelihood.parametrization, likelihood.eps)}
    found: dict[str, Tensor] = {}
    if isinstance(likelihood, Parametric):
        for name, source in likelihood.sources():
            operand = OPERANDS[likelihood.kind].of(name)
            if isinstance(source, Fixed):
                found[operand] = torch.tensor(source.value, dtype=torch.float64).log()
            elif isinstance(source, PerDimension):
                found[operand] = _logarithm(weights[f"{prefix}{source.name}"], source)
    return found


def _logarithm(raw: Tensor, source: PerDimension) -> Tensor:
    if source.form == "log":
        return raw.double()
    if source.form == "softplus":
        return 0.5 * _logvar(raw, "softplus_std", source.eps)
    return _logvar(raw, "variance", source.eps)


def _logvar(raw: Tensor, parametrization: str, eps: float) -> Tensor:
    """The op expects a row axis."""
    rows = raw.double().unsqueeze(0)
    return fastvae_kernels.logvar(rows, parametrization=parametrization, eps=eps).squeeze(0)
