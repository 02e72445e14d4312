"""How right is right: an independent float64 oracle for every op, and error budgets derived from eager's own.

Shared by the test-suite and by checks on a GPU, so that a kernel is held to the same numbers everywhere.
"""

import math
from typing import Any

import torch
from torch import Tensor

import fastvae_kernels

from .eager import EAGER
from .oracle_noise import oracle_normals, oracle_uniforms, philox

__all__ = [
    "EAGER",
    "NORMAL_EPSILONS",
    "assert_op_within",
    "assert_rounded",
    "assert_within",
    "drawn_error",
    "oracle",
    "oracle_normals",
    "oracle_uniforms",
    "outputs",
    "philox",
    "roundoff",
    "slope",
    "stored_error",
    "widen",
]

NORMAL_EPSILONS = 7.0
"""The most by which a float32 normal may differ between implementations, in units of 2**-23 of its value.

Half of log's error for the square root (log: 1 unit on CUDA, 2 on AMD, 4 in NumPy under the interpreter), so
2; an approximate square root 1; the angle 1.5 (an integer rounded, π rounded, their product); a sine or
cosine polynomial 1; the last product 0.5; the reference's own rounding 0.5. That makes 6.5.
"""


def roundoff(dtype: torch.dtype, *, interpreted: bool = False) -> float:
    """The relative error of one rounding to `dtype`: half a unit, a whole one where rounding truncates.

    Triton 3.9's interpreter truncates float32 to bfloat16 (`cast_impl` passes no rounding mode).
    """
    unit = torch.finfo(dtype).eps
    return unit if interpreted and dtype == torch.bfloat16 else unit / 2


def assert_within(
    actual: Tensor, exact: Tensor, eager: Tensor, *, extra: Tensor | float = 0.0, interpreted: bool = False
) -> None:
    """`actual` is as near `exact`, in float64, as low precision allows.

    The budget is twice the largest error of `eager`, a plain evaluation in actual's dtype, plus the rounding
    of the result to that dtype, plus `extra`. Infinities and NaN must be where rounding `exact` puts them.
    Raises AssertionError with the worst element's index, its values and the budget.
    """
    assert actual.shape == exact.shape, f"shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    assert exact.dtype == torch.float64
    if not actual.is_floating_point():
        assert_rounded(actual, exact, eager)
        return
    rounded, wide = exact.to(actual.dtype).double(), actual.double()
    odd = ~rounded.isfinite()
    torch.testing.assert_close(wide[odd], rounded[odd], rtol=0, atol=0, equal_nan=True)
    if odd.all():
        return
    own = (eager.double() - exact).abs().masked_fill(odd, 0).nan_to_num(0, 0, 0).max()
    smallest = torch.finfo(actual.dtype).smallest_normal
    budget = 2 * own + roundoff(actual.dtype, interpreted=interpreted) * exact.abs() + smallest + extra
    error = (wide - exact).abs()
    excess = (error / budget).masked_fill(odd, 0)
    worst = int(excess.flatten().nan_to_num(math.inf).argmax())
    if not excess.flatten()[worst] <= 1:
        at = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), exact.shape))
        pick = [float(t.flatten()[worst]) for t in (actual, exact, error, budget)]
        raise AssertionError("at {}: {}, expected {}; error {:.3g}, budget {:.3g}".format(at, *pick))


def assert_rounded(actual: Tensor, exact: Tensor, eager: Tensor) -> None:
    """Whole numbers are as near `exact` as rounding brings them, give or take twice the largest error of `eager`."""
    own = (eager.double() - exact).abs().nan_to_num(0, 0, 0)
    budget = 0.5 + 2 * float(own.max() if own.numel() else 0.0)
    error = (actual.double() - exact).abs()
    assert (error <= budget).all(), f"off by {float(error.max()):.4g}, budget {budget:.4g}"


def widen(arguments: dict[str, Any], dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """The arguments with every floating tensor, and every dtype that is asked for, `dtype`."""

    def wide(v: Any) -> Any:
        if isinstance(v, Tensor):
            return v.to(dtype) if v.is_floating_point() else v
        return dtype if isinstance(v, torch.dtype) else v

    return {name: wide(v) for name, v in arguments.items()}


def oracle(op: str, arguments: dict[str, Any]) -> Any:
    """An op evaluated in float64 -> float64, a tensor or a tuple of them."""
    return EAGER[op](**widen(arguments))


def outputs(result: Any) -> tuple[Tensor, ...]:
    """What an op returned, as a tuple."""
    return result if isinstance(result, tuple) else (result,)


_SLOPES = {"gelu": 1.13, "gelu_tanh": 1.13, "silu": 1.1, "selu": 1.7581}
"""The steepest an activation gets, if that is more than 1; elu and leaky_relu have their alpha to consider."""


def slope(activation: str, alpha: float | None) -> float:
    """The most by which an activation magnifies a small error of its argument."""
    return max(_SLOPES.get(activation, 1.0), 1.0 if alpha is None else abs(alpha))


def _draws(op: str, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The z that an op draws, and the part std ε of it, in float64."""
    wide = widen(arguments)
    if op == "reparameterize":
        z = oracle(op, arguments)[0]
        return z, z - wide["mean"]
    if op in ("gaussian_head", "bottleneck"):
        head = {name: v for name, v in wide.items() if name not in ("weight", "bias", "activation", "alpha")}
        z, _, mean, _ = EAGER["gaussian_head"](**{**head, "posterior": True})
        return z, z - mean
    if op == "sample_normal":
        z = oracle(op, arguments)
    else:
        where = {name: v for name, v in wide.items() if name in ("seed", "start", "stream")}
        z = oracle_normals(wide["n"], wide["weight"].shape[1], **where).to(wide["weight"])
    return z, z


def drawn_error(op: str, arguments: dict[str, Any], *, interpreted: bool = False) -> Tensor | float:
    """By how much the first output of `op` may be off where a kernel draws the noise itself; others have none.

    Such a kernel's normals are ε (1 + δ) with |δ| <= u = NORMAL_EPSILONS 2**-23, each with a δ of its own. So a
    draw z = mean + std ε is off by d = u |std ε|, exactly; `sample_normal` is the case of mean 0 and std 1. Where
    a product with W follows, output o is off by at most Σ_i |W_oi| d_i before its activation and, that having
    slopes of at most L, by L Σ_i |W_oi| d_i after. On its way to W, z is rounded to W's dtype. Eager rounds it
    too, so that is in eager's own error, unless the interpreter truncates: then z loses up to t (|z| + d) more,
    with t its `roundoff`.
    """
    if op not in ("sample_normal", "reparameterize", "linear_prior", "gaussian_head", "bottleneck"):
        return 0.0
    z, drawn = _draws(op, arguments)
    error = NORMAL_EPSILONS * 2.0**-23 * drawn.abs()
    if op not in ("linear_prior", "bottleneck"):
        return error
    weight = arguments["weight"]
    if interpreted and weight.dtype == torch.bfloat16:
        error += roundoff(weight.dtype, interpreted=True) * (z.abs() + error)
    steepest = slope(arguments.get("activation", "identity"), arguments.get("alpha"))
    through: Tensor = steepest * (error @ weight.double().abs().T)
    return through


def stored_error(arguments: dict[str, Any], *, interpreted: bool = False) -> Tensor:
    """By how much the statistics of `conv2d_statistics` may be off because they are those of the rounded result.

    Each y of a block of k may be off by e, the budget of `assert_within`; the mean then is by the mean E of those, and
    with d = y - mean, which is off by e + E, the sum of d² by that of 2 |d| (e + E) + (e + E)².
    """
    y = oracle("conv2d_statistics", arguments)[0]
    eager = outputs(EAGER["conv2d_statistics"](**arguments))[0]
    own = (eager.double() - y).abs().amax() if y.numel() else 0.0
    error = 2 * own + roundoff(eager.dtype, interpreted=interpreted) * y.abs()
    found = []
    for e, part in zip(*(t.flatten(2).split(arguments["block"], 2) for t in (error, y)), strict=True):
        d, e_of_d = (part - part.mean(2, keepdim=True)).abs(), e + e.mean(2, keepdim=True)
        found.append(torch.stack([e.mean(2), (2 * d * e_of_d + e_of_d**2).sum(2)], 2))
    return torch.stack(found, 1)


def assert_op_within(op: str, impl: str, arguments: dict[str, Any], *, interpreted: bool = False) -> None:
    """Every output of an op on these arguments is within the budget of `assert_within`.

    Eager is evaluated in the arguments' own dtype but, for outputs that come in float32 (sums over rows, wide
    outputs) or in 8 bits, bytes among them, with the same arguments in float32.
    """
    exact = outputs(oracle(op, arguments))
    actual = outputs(getattr(fastvae_kernels, op)(**arguments, impl=impl))
    extra: list[Tensor | float] = [0.0] * len(exact)
    if impl != "reference":
        extra[0] = drawn_error(op, arguments, interpreted=interpreted)
    if op == "conv2d_statistics":
        extra[1] = stored_error(arguments, interpreted=interpreted)
    for index, (result, truth) in enumerate(zip(actual, exact, strict=True)):
        single = result.dtype in (torch.float32, torch.float8_e4m3fn, torch.uint8, torch.bool)
        eager = outputs(EAGER[op](**(widen(arguments, torch.float32) if single else arguments)))[index]
        assert single or result.dtype == eager.dtype, f"output {index} has {result.dtype}, expected {eager.dtype}"
        assert_within(result, truth, eager, extra=extra[index], interpreted=interpreted)
