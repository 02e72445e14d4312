"""Some rows of a case: the same arguments for fewer rows, and the same rows of what the op returned for all."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["batch_size", "result_rows", "take_rows"]

_LIKELIHOODS: dict[str, tuple[str, ...]] = {
    "laplace_nll": ("location", "log_scale"),
    "student_t_nll": ("location", "log_scale", "log_df"),
    "continuous_bernoulli_nll": ("logits",),
    "poisson_nll": ("log_rate", "zero_logits"),
    "negative_binomial_nll": ("log_mean", "log_dispersion", "zero_logits"),
}

_PER_ROW: dict[str, tuple[str, ...]] = {
    "reparameterize": ("mean", "logvar"),
    "linear": ("x", "x_scale", "residual"),
    **dict.fromkeys(("conv2d", "conv2d_statistics", "conv_transpose2d"), ("x", "residual")),
    "conv_score": ("data", "mask"),
    "linear_score": ("data", "mask"),
    **dict.fromkeys(("elbo", "elbo_loss"), ("data", "mask", "mean", "logvar")),
    "norm_affine": ("statistics",),
    "norm_apply": ("x", "affine"),
    "attention": ("q", "k", "v"),
    "affine": ("x",),
    "logvar": ("raw",),
    "bernoulli_nll": ("x", "mask"),
    "gaussian_nll": ("x", "mask"),
    "squared_error": ("x",),
    **dict.fromkeys((*_LIKELIHOODS, "categorical_nll"), ("x", "mask")),
}
"""Arguments [n, ...] of an op, for ops that have others than x."""

_PER_SAMPLE: dict[str, tuple[str, ...]] = {
    "conv_score": ("x",),
    "linear_score": ("x", "x_scale"),
    **dict.fromkeys(("elbo", "elbo_loss"), ("output", "output_logvar")),
    "bernoulli_nll": ("logits",),
    "gaussian_nll": ("mean", "logvar"),
    "squared_error": ("output",),
    **_LIKELIHOODS,
    "categorical_nll": ("logits",),
}
"""Arguments [s*n, ...], row r belonging to row r % n of the data; one of fewer axes, x_scale aside, is shared."""


def batch_size(op: str, arguments: dict[str, Any]) -> int:
    """How many rows of data the arguments hold or ask for."""
    n: int = arguments["n"] if "n" in arguments else len(arguments[_PER_ROW.get(op, ("x",))[0]])
    return n


def _sample_rows(parameter: Tensor, n: int, rows: slice) -> Tensor:
    """`rows` of every sample; unlike a reshape, joining them keeps images in their memory format."""
    samples = [sample[rows] for sample in (parameter[i : i + n] for i in range(0, len(parameter), n))] if n else []
    return torch.cat(samples) if samples else parameter[:0]


def take_rows(op: str, arguments: dict[str, Any], rows: slice) -> dict[str, Any]:
    """The arguments for `rows` alone, of a step of 1; noise starts further on, so that they keep theirs."""
    n = batch_size(op, arguments)
    first, last, _ = rows.indices(n)
    taken = dict(arguments)
    if "n" in arguments:
        taken["n"] = last - first
    if arguments.get("seed") is not None:
        taken["start"] = arguments.get("start", 0) + first
    for name in () if "n" in arguments else _PER_ROW.get(op, ("x",)):
        if arguments.get(name) is not None:
            taken[name] = arguments[name][rows]
    for name in _PER_SAMPLE.get(op, ()):
        v, parameter = arguments.get(name), arguments[_PER_SAMPLE[op][0]]
        shared = name != "x_scale" and v is not None and v.dim() < parameter.dim()
        if v is not None and not shared:
            taken[name] = _sample_rows(v, n, rows)
    return taken


def result_rows(arguments: dict[str, Any], n: int, result: Tensor, rows: slice) -> Tensor:
    """`rows` of one output for n rows: [n, ...], [samples, n, dim] where samples were asked for, or [s*n]."""
    if result.dim() == 3 and arguments.get("samples") is not None:
        return result[:, rows]
    if result.shape[0] == n or result.dim() > 1:
        return result[rows]
    return _sample_rows(result, n, rows)
