"""The short way through `elbo_loss` on CPUs: what takes it, and that nothing shows which way was taken."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvae_kernels import elbo_loss
from fastvae_kernels.ops.elbo_step import may_take_a_step
from tests.kernels.elbo_losses import gradients, make, with_impl
from tests.kernels.support import CUDA, needs_compiled

pytestmark = [needs_compiled, pytest.mark.skipif(CUDA, reason="for CPUs")]


def taken(arguments: dict[str, Any]) -> bool:
    names = ("output", "data", "mean", "logvar", "likelihood", "output_logvar")
    return may_take_a_step(*(arguments[name] for name in names))


def usual(kind: str = "bernoulli", **changes: Any) -> dict[str, Any]:
    arguments = make(kind)
    arguments["output"].requires_grad_()
    return arguments | changes


@given(
    kind=st.sampled_from(("bernoulli", "squared_error", "row")),
    n=st.integers(1, 40),
    samples=st.integers(1, 3),
    columns=st.integers(1, 900),
    reduction=st.sampled_from(("mean", "sum")),
    beta=st.sampled_from((0, 0.25, 1.0, 4.0)),
    factor=st.sampled_from((1.0, 0.5)),
)
def test_both_ways_are_one(
    kind: str, n: int, samples: int, columns: int, reduction: str, beta: float, factor: float
) -> None:
    """A mask of ones goes the long way. What differs is where a gradient is multiplied by beta / n, to 4 roundings."""
    short = {**make(kind, n, (columns,), samples), "reduction": reduction, "beta": beta}
    long = {**short, "mask": torch.ones(n, columns, dtype=torch.bool)}
    leaf = {**short, "output": short["output"].clone().requires_grad_()}
    assert taken(leaf)
    for one, other in zip(elbo_loss(**leaf), elbo_loss(**long), strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=2**-22, atol=0)
    ways = [gradients(a, with_impl("cpu"), factor) for a in (short, long)]
    for name, gradient in ways[0].items():
        torch.testing.assert_close(gradient, ways[1][name], rtol=2**-22, atol=1e-30)


@pytest.mark.parametrize(
    "changes",
    [
        {"output": torch.ones(6, 5)},
        {"output": torch.ones(5, 6).T.requires_grad_()},
        {"output": torch.ones(7, 5, requires_grad=True)},
        {"output": torch.ones(6, 4, requires_grad=True)},
        {"output": torch.ones(6, 5, dtype=torch.bfloat16, requires_grad=True)},
        {"data": torch.ones(0, 5)},
        {"data": [[1.0]]},
        {"mean": torch.ones(3)},
        {"mean": torch.ones(3, 2)},
        {"mean": torch.ones(2, 4), "logvar": torch.ones(2, 4)},
        {"likelihood": "laplace"},
        {"output_logvar": torch.ones(6, 5)},
        {"likelihood": "gaussian"},
        {"likelihood": "gaussian", "output_logvar": torch.tensor(1.0)},
    ],
)
def test_what_is_out_of_the_usual_goes_the_long_way(changes: dict[str, Any]) -> None:
    assert taken(usual())
    assert not taken(usual(**changes))


def test_no_gradient_and_no_eager_tensors_go_the_long_way() -> None:
    with torch.no_grad():
        assert not taken(usual())
    assert not taken(usual(mean=torch.ones(3, 4, device="meta")))
    arguments = usual()
    for wrong in ({"beta": True}, {"beta": -1.0}, {"free_bits": False}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            elbo_loss(**arguments, **wrong)


def test_a_constant_log_variance_gets_no_gradient() -> None:
    arguments = usual("row")
    value = elbo_loss(**arguments).loss
    (found,) = torch.autograd.grad(value, arguments["output"])
    expected = (arguments["output"] - arguments["data"].repeat(2, 1)) * torch.exp(-arguments["output_logvar"]) / 6
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("beta", [2.0**64, 1e38, 1e300, float("inf")])
def test_a_huge_beta_goes_the_long_way_or_is_right(beta: float) -> None:
    """Beyond float32 it is no argument of a float32 operation: what it makes is infinite, as on the long way."""
    arguments = usual(beta=beta)
    long = {**arguments, "mask": torch.ones_like(arguments["data"], dtype=torch.bool)}
    torch.testing.assert_close(elbo_loss(**arguments).loss, elbo_loss(**long).loss, rtol=2**-22, atol=0)
