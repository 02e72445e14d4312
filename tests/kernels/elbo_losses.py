"""What tests of `elbo_loss` share: its arguments and options, gradients by any implementation, and their budget."""

from typing import Any

import torch
from torch import Tensor

from fastvae_kernels import elbo_loss, implementations
from fastvae_kernels.testing import EAGER, assert_within, oracle
from tests.kernels.support import DEVICE, interpreted

IMPLS = implementations("elbo_loss")
OPTIONS: dict[str, dict[str, Any]] = {
    "mean": {},
    "sum": {"reduction": "sum", "beta": 0.25},
    "none": {"reduction": "none", "beta": 2.0},
    "free_bits": {"free_bits": 0.9, "beta": 3.0},
    "free_bits_sum": {"free_bits": 0.9, "reduction": "sum"},
    "above_capacity": {"capacity": 0.5, "beta": 10.0},
    "below_capacity": {"capacity": 40.0, "reduction": "sum"},
}
KINDS = ("bernoulli", "squared_error", "row", "shared", "scalar")
"""Likelihoods; the last three are Gaussians, by whose log-variance it is."""
DIFFERENTIABLE = ("output", "mean", "logvar", "output_logvar")


def make(
    kind: str,
    n: int = 3,
    shape: tuple[int, ...] = (5,),
    samples: int = 2,
    *,
    latent: tuple[int, ...] = (4,),
    masked: bool = False,
    dtype: torch.dtype = torch.float32,
    spread: float = 1.5,
) -> dict[str, Any]:
    """Arguments of the loss."""
    generator = torch.Generator().manual_seed(n * 100 + len(shape))

    def normal(*size: int) -> Tensor:
        return (torch.randn(size, generator=generator, dtype=torch.float64) * spread).to(DEVICE, dtype)

    rows = samples * n
    of_logvar = {"row": (rows, *shape), "shared": shape, "scalar": ()}.get(kind)
    return {
        "output": normal(rows, *shape),
        "data": normal(n, *shape).sigmoid(),
        "mean": normal(n, *latent),
        "logvar": normal(n, *latent),
        "likelihood": "gaussian" if of_logvar is not None else kind,
        "output_logvar": None if of_logvar is None else normal(*of_logvar),
        "mask": (torch.rand(n, *shape, generator=generator) < 0.7).to(DEVICE) if masked else None,
    }


def gradients(arguments: dict[str, Any], loss: Any, factor: Tensor | float) -> dict[str, Tensor]:
    """Those of the sum of `factor` times a loss, by whatever has one."""
    leaves = {k: arguments[k].detach().requires_grad_() for k in DIFFERENTIABLE if arguments[k] is not None}
    value = (loss(**{**arguments, **leaves})[0] * factor).sum()
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {k: torch.zeros_like(leaves[k]) if g is None else g for k, g in zip(leaves, found, strict=True)}


def with_impl(impl: str) -> Any:
    return lambda **arguments: elbo_loss(**arguments, impl=impl)


def wide(arguments: dict[str, Any], dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    return {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in arguments.items()}


def check(arguments: dict[str, Any], impl: str, factor: Tensor | float = 1.0) -> None:
    """Values and gradients are within the budget: autograd of eager's, in the same precision, sets it."""
    plain = interpreted(impl)
    results, exact = elbo_loss(**arguments, impl=impl), oracle("elbo_loss", arguments)
    eager = EAGER["elbo_loss"](**wide(arguments, torch.float32))
    for result, truth, own in zip(results, exact, eager, strict=True):
        # Means and sums of a few terms: one rounding of each, where eager may by chance have none.
        assert_within(result, truth, own, extra=2.0**-22 * truth.abs(), interpreted=plain)
    found = gradients(arguments, with_impl(impl), factor)
    true = gradients(wide(arguments), EAGER["elbo_loss"], factor)
    own = gradients(arguments, EAGER["elbo_loss"], factor)
    for name, gradient in found.items():
        assert gradient.dtype == arguments[name].dtype
        unit = torch.finfo(gradient.dtype).eps
        assert_within(gradient, true[name], own[name], extra=2 * unit * true[name].abs(), interpreted=plain)
