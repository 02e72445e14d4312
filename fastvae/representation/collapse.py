"""Which latent dimensions a model uses: active units, and a report on posterior collapse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastvae
from fastvae import noise
from fastvae.errors import InputError, UnsupportedError
from fastvae.representation import _checks
from fastvae.representation._checks import Floats
from fastvae.spec import PointHead
from fastvae_kernels import sample_normal

THRESHOLD = 0.01
MI_ROWS = 1024
SHOWN = 32
# Log-variances beyond, of which exp is no number, carry as much information as these.
LARGEST_LOGVAR = 300.0


def active_units(means: NDArray[Any], threshold: float = THRESHOLD) -> NDArray[np.bool_]:
    """Which dimensions are active: the posterior mean varies over the data by more than ``threshold``.

    Burda et al. 2016 (arXiv:1509.00519): Cov_x(E[z_j|x]) > 0.01.

    Args:
        means: posterior means (rows, *latent_shape), such as ``vae.embed`` gives; at least 2 rows.

    Returns:
        (dims,), counted over the flattened latent.

    Raises:
        InputError: an argument of the wrong kind, shape or range.
    """
    active: NDArray[np.bool_] = _checks.latents("means", means, least=2).var(0) > _positive("threshold", threshold)
    return active


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Per latent dimension (counted over the flattened latent), means over ``rows`` rows of data; nats.

    Attributes:
        kl: mean KL(q(z_j|x) || N(0, 1)): the rate that the dimension takes.
        variance_of_means: variance of E[z_j|x] over rows.
        mean_variance: mean of Var[z_j|x]. Where the two variances add up to 1 the aggregate posterior has the prior's.
        mutual_information: estimate of I(x; z_j) over ``mi_rows`` rows, at most log(mi_rows); NaN if there are none.
        active: variance_of_means > threshold (Burda et al. 2016).
    """

    rows: int
    mi_rows: int
    threshold: float
    kl: Floats
    variance_of_means: Floats
    mean_variance: Floats
    mutual_information: Floats
    active: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "active", self.variance_of_means > self.threshold)

    @property
    def rate(self) -> float:
        """KL(q(z|x) || p(z)), the mean over rows: nats a row."""
        return float(self.kl.sum())

    @property
    def order(self) -> NDArray[np.int64]:
        """Dimensions by KL, the largest first."""
        return np.argsort(-self.kl, kind="stable")

    def as_dict(self) -> dict[str, Any]:
        """Everything as numbers and lists, for JSON; NaN as None."""
        columns = ("kl", "variance_of_means", "mean_variance", "mutual_information")
        dimensions = [
            {"dim": dim, "active": bool(self.active[dim])}
            | {name: None if np.isnan(value := getattr(self, name)[dim]) else float(value) for name in columns}
            for dim in self.order.tolist()
        ]
        head = {"rows": self.rows, "mi_rows": self.mi_rows, "threshold": self.threshold, "rate": self.rate}
        return head | {"active_units": int(self.active.sum()), "dimensions": dimensions}

    def __str__(self) -> str:
        names = ("dim", "KL", "variance of means", "mean variance", "I(x; z)", "state")
        lines = ["  ".join(names)]
        for dim in self.order[:SHOWN]:
            values = (self.kl, self.variance_of_means, self.mean_variance, self.mutual_information)
            cells = [str(dim), *(f"{value[dim]:.3f}" for value in values)]
            state = "active" if self.active[dim] else "collapsed"
            lines.append("  ".join([*(c.rjust(len(n)) for c, n in zip(cells, names, strict=False)), state]))
        if len(self.kl) > SHOWN:
            lines.append(f"and {len(self.kl) - SHOWN} dimensions of lower KL")
        active = f"{int(self.active.sum())} of {len(self.kl)} dimensions active"
        return "\n".join([*lines, f"{active}, rate {self.rate:.3f} nats a row, {self.rows:,} rows"])


def diagnose(
    vae: fastvae.VAE,
    x: NDArray[Any],
    *,
    condition: Any = None,
    threshold: float = THRESHOLD,
    mi_rows: int = MI_ROWS,
    seed: int = 0,
) -> Diagnosis:
    """How much of the data each latent dimension carries; ``print`` it for a table, the largest KL first.

    Args:
        x: rows (rows, *input_shape), at least 2.
        threshold: of active units.
        mi_rows: rows, evenly spaced, for the estimate of mutual information: time grows with their square; 0: none.
        seed: of the draws for that estimate.

    Raises:
        InputError: an argument of the wrong kind, shape or range.
        UnsupportedError: the encoder is deterministic.
    """
    if isinstance(vae.spec.posterior, PointHead):
        raise UnsupportedError("diagnose: this model's encoder is deterministic, its posterior has no variance")
    if not isinstance(x, np.ndarray):
        raise InputError(f"x: expected a NumPy array, got {type(x).__name__}")
    mean, logvar = vae.encode(x, condition=condition).unscaled()
    return diagnose_posterior(mean, logvar, threshold=threshold, mi_rows=mi_rows, seed=seed)


def diagnose_posterior(
    mean: NDArray[Any],
    logvar: NDArray[Any],
    *,
    threshold: float = THRESHOLD,
    mi_rows: int = MI_ROWS,
    seed: int = 0,
) -> Diagnosis:
    """:func:`diagnose` for posteriors that are there already, of latents whose prior is N(0, I).

    Args:
        mean, logvar: (rows, *latent_shape), as ``vae.encode(x)`` has them.
    """
    centre, spread = _checks.latents("mean", mean, least=2), _checks.latents("logvar", logvar)
    if mean.shape != logvar.shape:
        raise InputError(f"logvar: expected the shape of mean, {mean.shape}, got {logvar.shape}")
    chosen = min(noise.check_count("mi_rows", mi_rows), len(centre))
    threshold = _positive("threshold", threshold)
    information = np.full(centre.shape[1], np.nan)
    if chosen > 1:
        places = np.linspace(0, len(centre) - 1, chosen).round().astype(np.int64)
        information = _mutual_information(centre[places], spread[places], seed)
    return Diagnosis(
        rows=len(centre),
        mi_rows=chosen if chosen > 1 else 0,
        threshold=threshold,
        kl=(0.5 * (centre**2 + np.expm1(spread) - spread)).mean(0),
        variance_of_means=centre.var(0),
        mean_variance=np.exp(spread).mean(0),
        mutual_information=information,
    )


def _mutual_information(mean: Floats, logvar: Floats, seed: int) -> Floats:
    """I(x; z_j) per dimension, from one draw a row.

    E[log q(z_j|x) - log q(z_j)], the aggregate q(z_j) being the mixture of the given rows (Hoffman & Johnson 2016).
    """
    rows, dims = mean.shape
    logvar = logvar.clip(-LARGEST_LOGVAR, LARGEST_LOGVAR)
    draws = sample_normal(rows, dims, seed=noise.check_seed(seed), stream=noise.POSTERIOR).double().numpy()
    found = np.empty(dims)
    for dim in range(dims):
        m, v, e = mean[:, dim], logvar[:, dim], draws[:, dim]
        z = m + np.exp(v / 2) * e
        densities = -0.5 * ((z[:, None] - m) ** 2 * np.exp(-v) + v)
        own = -0.5 * (e**2 + v)
        np.fill_diagonal(densities, own)  # of narrow posteriors z - m has lost its digits
        largest = densities.max(1)
        mixture = largest + np.log(np.exp(densities - largest[:, None]).mean(1))
        found[dim] = (own - mixture).mean()
    return np.maximum(found, 0.0)


def _positive(name: str, value: float) -> float:
    if _checks.number(name, value) < 0:
        raise InputError(f"{name}: expected a number of at least 0, got {value}")
    return float(value)
