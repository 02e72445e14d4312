"""Running sums against SciPy and NumPy, in any cut, and where weights are 0, infinite or NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from fastvae.running import GROUP, LogWeights, Moments, log_add, tree_sum

CPU = torch.device("cpu")


def values(draws: int, rows: int = 3, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.from_numpy(np.random.default_rng(draws).normal(size=(draws, rows)))


def taken(kind: type[LogWeights] | type[Moments], draws: torch.Tensor, *cuts: int) -> LogWeights | Moments:
    """``draws`` in pieces of the sizes ``cuts``, again and again."""
    sums = kind(draws.shape[1], CPU)
    low, index = 0, 0
    while low < len(draws):
        size = cuts[index % len(cuts)] if cuts else len(draws)
        sums.add(draws[low : low + size])
        low, index = low + size, index + 1
    sums.finish()
    return sums


@pytest.mark.parametrize("draws", [2, 63, 64, 65, 500])
def test_weights_against_scipy(draws: int) -> None:
    logs = values(draws, scale=30.0) - 1000
    found = taken(LogWeights, logs)
    assert isinstance(found, LogWeights)
    weights = np.exp(logs.numpy() - logs.numpy().max(0))
    np.testing.assert_allclose(found.log_mean, logsumexp(logs, axis=0) - np.log(draws), rtol=1e-14)
    np.testing.assert_allclose(found.effective_sample_size, weights.sum(0) ** 2 / (weights**2).sum(0), rtol=1e-12)
    error = weights.std(0, ddof=1) / np.sqrt(draws) / weights.mean(0)
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-9)


@pytest.mark.parametrize("draws", [1, 2, 63, 64, 65, 500])
def test_moments_against_numpy(draws: int) -> None:
    numbers = values(draws) + 1e6
    found = taken(Moments, numbers)
    assert isinstance(found, Moments)
    np.testing.assert_allclose(found.mean, numbers.numpy().mean(0), rtol=1e-14)
    if draws == 1:
        assert found.standard_error.isnan().all()
    else:
        np.testing.assert_allclose(found.standard_error, numbers.numpy().std(0, ddof=1) / np.sqrt(draws), rtol=1e-9)


@pytest.mark.parametrize("kind", [LogWeights, Moments])
@pytest.mark.parametrize("cuts", [(1,), (7,), (GROUP - 1,), (GROUP,), (3, 100), (GROUP + 1,)])
def test_bits_do_not_depend_on_the_cut(kind: type[LogWeights] | type[Moments], cuts: tuple[int, ...]) -> None:
    draws = values(3 * GROUP + 5, scale=5.0)
    whole, pieces = taken(kind, draws), taken(kind, draws, *cuts)
    for name in ("_sum", "_total", "_squares", "_peak"):
        if hasattr(whole, name):
            assert torch.equal(getattr(whole, name), getattr(pieces, name)), name


def test_weights_of_zero_infinity_and_nan() -> None:
    logs = values(2 * GROUP, 4)
    logs[:, 0] = -torch.inf
    logs[: GROUP + 1, 1] = -torch.inf
    logs[3, 2] = torch.inf
    logs[3, 3] = torch.nan
    found = taken(LogWeights, logs)
    assert isinstance(found, LogWeights)
    expected = logsumexp(logs[:, 1], axis=0) - np.log(2 * GROUP)
    np.testing.assert_allclose(found.log_mean, [-np.inf, expected, np.inf, np.nan], rtol=1e-14)
    assert found.standard_error[0].isnan()
    assert float(found.effective_sample_size[1]) <= GROUP - 1


def test_infinite_numbers_have_an_infinite_mean() -> None:
    numbers = values(3 * GROUP)
    numbers[1, 0] = -torch.inf
    assert taken(Moments, numbers).mean[0] == -torch.inf  # type: ignore[union-attr]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64])
def test_tree_sum(count: int) -> None:
    numbers = values(count)
    before = numbers.clone()
    np.testing.assert_allclose(tree_sum(numbers), numbers.sum(0), rtol=1e-12, atol=1e-13)
    assert torch.equal(numbers, before)


def test_log_add_against_numpy_wherever_a_number_stands() -> None:
    a, b = values(1, 99)[0], values(1, 99, scale=30.0)[0]
    b[:4] = torch.tensor([-torch.inf, torch.inf, torch.nan, 0.0])
    a[0] = -torch.inf
    found = log_add(a, b)
    np.testing.assert_allclose(found, np.logaddexp(a.numpy(), b.numpy()), rtol=1e-15)
    for place in range(99):
        one = log_add(a[place : place + 1], b[place : place + 1])
        assert one.view(torch.int64) == found[place].view(torch.int64)
