"""The error budget itself: it must notice what it is there to notice."""

from typing import Any

import pytest
import torch

import fastvae_kernels
from fastvae_kernels.checks import ACTIVATIONS
from fastvae_kernels.eager import EAGER, activate
from fastvae_kernels.testing import NORMAL_EPSILONS, assert_op_within, assert_within, drawn_error, roundoff, slope
from tests.kernels.support import IMPLS, case_of

EXACT = torch.tensor([1.0, -2.0, 1e-3], dtype=torch.float64)


def test_accepts_the_rounded_truth() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rounded = EXACT.to(dtype)
        assert_within(rounded, EXACT, rounded)


def test_names_the_worst_element() -> None:
    wrong = EXACT.to(torch.float32)
    wrong[1] += 1e-5
    with pytest.raises(AssertionError, match=r"at \(1,\): -1\.99998.*, expected -2\.0"):
        assert_within(wrong, EXACT, EXACT.to(torch.float32))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite_where_the_truth_is(value: float) -> None:
    wrong = EXACT.to(torch.float32)
    wrong[0] = value
    with pytest.raises(AssertionError, match=r"at \(0,\)"):
        assert_within(wrong, EXACT, EXACT.to(torch.float32))


def test_refuses_what_is_finite_where_the_truth_is_not() -> None:
    exact = torch.tensor([1e39, 1.0], dtype=torch.float64)
    with pytest.raises(AssertionError):
        assert_within(torch.tensor([3e38, 1.0]), exact, torch.tensor([3e38, 1.0]))


def test_refuses_another_shape() -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_within(torch.zeros(2), EXACT, torch.zeros(3))


def test_roundoff_is_half_a_unit_unless_truncated() -> None:
    assert roundoff(torch.float32) == 2.0**-24
    assert roundoff(torch.bfloat16) == 2.0**-8
    assert roundoff(torch.bfloat16, interpreted=True) == 2 * roundoff(torch.bfloat16)


def test_every_op_is_written_in_eager_too() -> None:
    assert {op for op, _ in IMPLS} == EAGER.keys()


@pytest.mark.parametrize("op", ["linear", "gaussian_head", "elbo"])
def test_notices_a_wrong_op(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any output of several, off by a thousandth."""
    case = {"linear": "relu", "gaussian_head": "chunked", "elbo": "bernoulli"}[op]
    right, arguments = getattr(fastvae_kernels, op), case_of(op, case)
    count = len(right(**arguments)) if op != "linear" else 1
    for wrong in range(count):

        def off(*, wrong: int = wrong, **kwargs: Any) -> Any:
            result = right(**kwargs)
            if op == "linear":
                return result * 1.001
            return tuple(part * (1.001 if i == wrong else 1) for i, part in enumerate(result))

        monkeypatch.setattr(fastvae_kernels, op, off)
        with pytest.raises(AssertionError, match="budget"):
            assert_op_within(op, "reference", arguments)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_are_the_steepest(activation: str) -> None:
    x = torch.linspace(-9, 9, 100_001, dtype=torch.float64)
    steepest = (activate(x, activation, None).diff() / x.diff()).abs().max()
    assert steepest <= slope(activation, None) * (1 + 1e-6)


def test_drawn_error_goes_through_the_weights() -> None:
    """One latent of noise ε through weights 1 and -2: NORMAL_EPSILONS units of |ε| and 2 |ε|."""
    weight = torch.tensor([[1.0], [-2.0]])
    error = drawn_error("linear_prior", {"n": 3, "weight": weight, "seed": 5})
    noise = EAGER["sample_normal"](3, 1, seed=5, dtype=torch.float64, device="cpu")
    expected = NORMAL_EPSILONS * 2.0**-23 * noise.abs() * torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(error, expected)
    truncated = drawn_error("linear_prior", {"n": 3, "weight": weight.bfloat16(), "seed": 5}, interpreted=True)
    assert (truncated >= 2.0**-7 * noise.abs()).all()
    assert drawn_error("linear", case_of("linear", "relu")) == 0
