"""Cases of the ops that score data."""

from typing import Any

import torch

from .case_maker import Case, Maker, tf32

__all__ = ["bernoulli", "elbo", "gaussian", "linear_score", "scored", "squared"]


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
