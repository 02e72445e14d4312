"""Cases of the ops that score data."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .case_maker import Case, Maker, tf32

__all__ = [
    "LIKELIHOODS",
    "bernoulli",
    "elbo",
    "elbo_loss",
    "gaussian",
    "linear_score",
    "scored",
    "squared",
]


def bernoulli(rows: int, shape: tuple[int, ...], masked: bool) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        logits = make.normal(rows, *shape[1:], scale=4.0)
        return {"logits": logits, "x": make.unit(*shape), "mask": make.mask(*shape) if masked else None}

    return case


def gaussian(rows: int, shape: tuple[int, ...], masked: bool, logvar: str) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        shapes = {"row": (rows, *shape[1:]), "shared": shape[1:], "scalar": ()}
        return {
            "mean": make.normal(rows, *shape[1:]),
            "logvar": make.normal(*shapes[logvar]),
            "x": make.normal(*shape),
            "mask": make.mask(*shape) if masked else None,
        }

    return case


def squared(rows: int, shape: tuple[int, ...]) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        return {"output": make.normal(rows, *shape[1:]), "x": make.normal(*shape)}

    return case


def scored(
    make: Maker, rows: int, shape: tuple[int, ...], likelihood: str, masked: bool, logvar: str
) -> dict[str, Any]:
    """data of `shape`, its mask, and a log-variance for `rows` rows: of a "row", "shared" by them, or a "scalar"."""
    shapes = {"row": (rows, *shape[1:]), "shared": shape[1:], "scalar": ()}
    return {
        "likelihood": likelihood,
        "data": make.unit(*shape) if likelihood == "bernoulli" else make.normal(*shape),
        "mask": make.mask(*shape) if masked else None,
        "logvar": make.normal(*shapes[logvar]) if likelihood == "gaussian" else None,
    }


def linear_score(
    rows: int,
    inputs: int,
    shape: tuple[int, int],
    likelihood: str,
    activation: str = "identity",
    *,
    masked: bool = False,
    logvar: str = "shared",
    in_tf32: bool = False,
    wide_data: bool = False,
) -> Case:
    """`shape` is the data's; with `wide_data` they and the log-variance are float32 whatever x is."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        of_data = Maker(torch.float32 if wide_data else dtype, device)
        return {
            "x": make.normal(rows, inputs),
            "weight": make.weight(shape[1], inputs),
            "bias": make.normal(shape[1]) if shape[1] % 2 else None,
            **scored(of_data, rows, shape, likelihood, masked, logvar),
            "activation": activation,
            "precision": tf32(dtype) if in_tf32 else "ieee",
        }

    return case


def elbo(
    rows: int,
    shape: tuple[int, ...],
    latent: int,
    likelihood: str,
    *,
    masked: bool = False,
    logvar: str = "shared",
    centre: float = 0.0,
) -> Case:
    """`shape` is the data's, `centre` that of the posterior's means."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        of_data = scored(make, rows, shape, likelihood, masked, logvar)
        of_data["output_logvar"] = of_data.pop("logvar")
        mean = make.normal(shape[0], latent) + centre
        return {"output": make.normal(rows, *shape[1:]), **of_data, "mean": mean, "logvar": make.normal(*mean.shape)}

    return case


def elbo_loss(inner: Case, **options: Any) -> Case:
    """The arguments of `elbo` with options of the loss."""
    return lambda dtype, device: {**inner(dtype, device), **options}


def _further(make: Maker, rows: int, shape: tuple[int, ...], how: str) -> Tensor:
    """Another parameter for `rows` rows of data of `shape`: of a "row", "shared" by them, or a "scalar"."""
    return make.normal(*{"row": (rows, *shape[1:]), "shared": shape[1:], "scalar": ()}[how])


def _likelihood(
    rows: int, shape: tuple[int, ...], data: str, masked: bool, first: str, scale: float = 1.0, **others: str
) -> Case:
    """`first` is the parameter that the rows have, `others` are shaped as `_further` has it.

    data: "real", in "unit" intervals, "counts", one-hot "categories".
    """

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        x = {
            "real": lambda: make.normal(*shape, scale=2.0),
            "unit": lambda: make.unit(*shape),
            "counts": lambda: (make.unit(*shape) * 60 - 20).clamp_min(0).floor(),
            "categories": lambda: one_hot(make.unit(shape[0]).mul(shape[1]).long().clamp_max(shape[1] - 1), shape[1]),
        }[data]()
        return {
            first: make.normal(rows, *shape[1:], scale=scale),
            **{name: _further(make, rows, shape, how) for name, how in others.items()},
            "x": x.to(dtype),
            "mask": make.mask(*shape) if masked else None,
        }

    return case


LIKELIHOODS: dict[str, dict[str, Case]] = {
    "laplace_nll": {
        "column": _likelihood(5, (5, 1), "real", False, "location", log_scale="row"),
        "odd": _likelihood(7, (7, 33), "real", True, "location", log_scale="row"),
        "shared": _likelihood(12, (4, 3, 5), "real", True, "location", log_scale="shared"),
        "scalar": _likelihood(6, (3, 2, 9, 8), "real", False, "location", log_scale="scalar"),
    },
    "student_t_nll": {
        "column": _likelihood(5, (5, 1), "real", False, "location", log_scale="row", log_df="scalar"),
        "shared": _likelihood(12, (4, 33), "real", True, "location", log_scale="scalar", log_df="shared"),
        "row": _likelihood(6, (3, 2, 3, 4), "real", False, "location", log_scale="shared", log_df="row"),
    },
    "continuous_bernoulli_nll": {
        "column": _likelihood(5, (5, 1), "unit", False, "logits", 4.0),
        "samples": _likelihood(12, (4, 33), "unit", True, "logits", 4.0),
        "images": _likelihood(6, (3, 2, 9, 8), "unit", False, "logits", 0.3),
    },
    "poisson_nll": {
        "column": _likelihood(5, (5, 1), "counts", False, "log_rate", 2.0),
        "samples": _likelihood(12, (4, 33), "counts", True, "log_rate", 2.0),
        "zeros": _likelihood(7, (7, 20), "counts", False, "log_rate", 2.0, zero_logits="row"),
    },
    "negative_binomial_nll": {
        "column": _likelihood(5, (5, 1), "counts", False, "log_mean", 2.0, log_dispersion="row"),
        "shared": _likelihood(12, (4, 33), "counts", True, "log_mean", 2.0, log_dispersion="shared"),
        "zeros": _likelihood(7, (7, 20), "counts", False, "log_mean", 2.0, log_dispersion="scalar", zero_logits="row"),
    },
    "categorical_nll": {
        "two": _likelihood(5, (5, 2), "categories", False, "logits", 3.0),
        "samples": _likelihood(12, (4, 7), "categories", True, "logits", 3.0),
        "many": _likelihood(33, (11, 33), "categories", False, "logits"),
    },
}
