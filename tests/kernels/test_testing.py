"""The error budget itself: it must notice what it is there to notice."""

import pytest
import torch

from fastvae_kernels.testing import assert_within, roundoff

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
