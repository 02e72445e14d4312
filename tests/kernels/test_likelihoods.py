"""The likelihoods beyond Bernoulli and Gaussian against multiple precision and PyTorch's own, and at extremes."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, ContinuousBernoulli, Laplace, NegativeBinomial, Poisson, StudentT

import fastvae_kernels
from fastvae_kernels import (
    categorical_nll,
    continuous_bernoulli_nll,
    laplace_nll,
    negative_binomial_nll,
    poisson_nll,
    student_t_nll,
)

GENERATOR = np.random.default_rng(0)
N = 300
HUGE = (-3e38, -1e5, -60.0, -1e-30, 0.0, 1.0, 61.0, 1e5, 3e38)


def column(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)[:, None]


def exact(function: Callable[..., Any], *columns: Any) -> Tensor:
    """``function`` of each row's numbers in fifty digits."""
    with mp.workdps(50):
        rows = zip(*(np.asarray(values) for values in columns), strict=True)
        values = [float(function(*(mp.mpf(float(value)) for value in row))) for row in rows]
    return torch.tensor(values, dtype=torch.float64)


def laplace(x: Any, location: Any, s: Any) -> Any:
    return mp.log(2) + s + abs(x - location) * mp.exp(-s)


def student_t(x: Any, location: Any, s: Any, log_df: Any) -> Any:
    df = mp.exp(log_df)
    gammas = mp.loggamma(df / 2) - mp.loggamma((df + 1) / 2)
    return gammas + mp.log(df * mp.pi) / 2 + s + (df + 1) / 2 * mp.log1p(((x - location) * mp.exp(-s)) ** 2 / df)


def continuous_bernoulli(x: Any, logit: Any) -> Any:
    return -x * logit + (mp.log(mp.expm1(logit) / logit) if logit else 0)


def poisson(x: Any, m: Any) -> Any:
    return mp.exp(m) - x * m + mp.loggamma(x + 1)


def negative_binomial(x: Any, m: Any, r: Any) -> Any:
    mean, theta = mp.exp(m), mp.exp(r)
    gammas = mp.loggamma(theta) + mp.loggamma(x + 1) - mp.loggamma(x + theta)
    return gammas + theta * mp.log1p(mean / theta) + x * mp.log1p(theta / mean)


def zero_inflated(x: Any, nll: Any, zero_logit: Any) -> Any:
    extra = 1 / (1 + mp.exp(-zero_logit))
    return -mp.log(extra * (x == 0) + (1 - extra) * mp.exp(-nll))


def close(found: Tensor, expected: Tensor, rtol: float = 1e-12) -> None:
    """Relative to the result, or to one nat: a density's logarithm passes zero."""
    torch.testing.assert_close(found, expected.to(found), rtol=rtol, atol=rtol)


def spread(low: float, high: float) -> Any:
    return GENERATOR.uniform(low, high, N)


def counts_of(m: Any, r: Any) -> Any:
    """Counts as likely as not, and every seventh any at all."""
    theta = np.exp(r)
    x = GENERATOR.poisson(GENERATOR.gamma(theta, np.exp(m) / theta)).astype(float)
    x[::7] = GENERATOR.integers(0, 5000, len(x[::7]))
    return x


def test_laplace() -> None:
    x, location, s = spread(-5, 5), spread(-5, 5), spread(-8, 8)
    found = laplace_nll(column(location), column(s), column(x))
    close(found, exact(laplace, x, location, s))
    close(found, -Laplace(*map(torch.tensor, (location, np.exp(s)))).log_prob(torch.tensor(x)))


def test_student_t() -> None:
    x, location, s, log_df = spread(-50, 50), spread(-5, 5), spread(-8, 8), spread(-7, 30)
    s[::9] = -800.0  # r² is beyond float64 there
    found = student_t_nll(column(location), column(s), column(log_df), column(x))
    close(found, exact(student_t, x, location, s, log_df))
    some = (log_df < 2) & (s > -800)  # beyond, PyTorch's difference of log-gammas cancels, or its scale is 0
    of_torch = StudentT(*(torch.tensor(v[some]) for v in (np.exp(log_df), location, np.exp(s))))
    close(found[some], -of_torch.log_prob(torch.tensor(x[some])))


def test_student_t_of_many_degrees_of_freedom_is_a_gaussian() -> None:
    x, s = column(spread(-5, 5)), column(spread(-1, 1))
    found = student_t_nll(torch.zeros_like(x), s, torch.tensor(50.0), x)
    close(found, fastvae_kernels.gaussian_nll(torch.zeros_like(x), 2 * s, x))


def test_continuous_bernoulli() -> None:
    logit = np.concatenate([spread(-40, 40), 10.0 ** np.arange(-12, 0), -(10.0 ** np.arange(-12, 0)), [0.0, -0.0]])
    x = GENERATOR.random(len(logit))
    x[:4] = 0, 1, 0, 1
    found = continuous_bernoulli_nll(column(logit), column(x))
    close(found, exact(continuous_bernoulli, x, logit))
    some = (np.abs(logit) > 0.1) & (np.abs(logit) < 5)  # PyTorch has a series of two terms near 0, and clamps far off
    close(found[some], -ContinuousBernoulli(logits=torch.tensor(logit[some])).log_prob(torch.tensor(x[some])), 1e-11)


@pytest.mark.parametrize("impl", fastvae_kernels.implementations("continuous_bernoulli_nll"))
def test_continuous_bernoulli_in_float32(impl: str) -> None:
    """To four units of the last place of what is added: max(l, 0) - x l, and a logarithm of up to 5 besides."""
    logit = torch.linspace(-60, 60, 4001)[:, None]
    for x in (0.0, 0.25, 1.0):
        found = continuous_bernoulli_nll(logit, torch.full_like(logit, x), impl=impl)
        expected = continuous_bernoulli_nll(logit.double(), torch.full_like(logit, x).double())
        size = logit.abs().double()[:, 0]
        assert ((found.double() - expected).abs() <= 4 * 2.0**-24 * (1 + size * abs(x - 0.5) * 2 + size.log1p())).all()


def test_poisson() -> None:
    m, zero = spread(-12, 12), spread(-20, 20)
    x = counts_of(m, np.full(N, 8.0))
    found = poisson_nll(column(m), column(x))
    close(found, exact(poisson, x, m))
    some = x < 100
    close(found[some], -Poisson(torch.tensor(np.exp(m[some]))).log_prob(torch.tensor(x[some])))
    found = poisson_nll(column(m), column(x), zero_logits=column(zero))
    close(found, exact(lambda x, m, zero: zero_inflated(x, poisson(x, m), zero), x, m, zero))


def test_negative_binomial() -> None:
    m, r, zero = spread(-12, 12), spread(-8, 20), spread(-20, 20)
    x = counts_of(m, r)
    found = negative_binomial_nll(column(m), column(r), column(x))
    close(found, exact(negative_binomial, x, m, r), 3e-12)
    some = (x < 100) & (r < 2)
    of_torch = NegativeBinomial(torch.tensor(np.exp(r[some])), logits=torch.tensor((m - r)[some]))
    close(found[some], -of_torch.log_prob(torch.tensor(x[some])))
    found = negative_binomial_nll(column(m), column(r), column(x), zero_logits=column(zero))
    close(found, exact(lambda x, m, r, z: zero_inflated(x, negative_binomial(x, m, r), z), x, m, r, zero), 3e-12)


def test_negative_binomial_of_no_dispersion_is_a_poisson() -> None:
    m = spread(-5, 12)
    x = counts_of(m, np.full(N, 8.0))
    found = negative_binomial_nll(column(m), torch.tensor(1e30).double(), column(x))
    close(found, poisson_nll(column(m), column(x)), 1e-10)


def test_counts_in_float32_lose_little() -> None:
    """Less than 5e-4 of a score (of one nat, if that is more), where a difference of log-gammas loses 0.29 of it.

    A logarithm of 13 is rounded by 2**-21, and enters t x times at counts x of up to 4e5, against a score of 11.
    """
    m, r = spread(8, 13), spread(-2, 12)
    x = counts_of(m, r)
    narrow = [column(v).float() for v in (m, r, x)]
    found, expected = negative_binomial_nll(*narrow), negative_binomial_nll(*(v.double() for v in narrow))
    assert ((found.double() - expected).abs() <= 5e-4 * (1 + expected)).all()


def test_categorical() -> None:
    logits = torch.from_numpy(GENERATOR.normal(size=(40, 5)) * 5)
    code = torch.from_numpy(GENERATOR.integers(0, 5, 40))
    x = torch.nn.functional.one_hot(code, 5).double()
    found = categorical_nll(logits, x)
    close(found, -Categorical(logits=logits).log_prob(code))
    assert torch.equal(found, categorical_nll(logits, x, torch.ones_like(x, dtype=torch.bool)))
    assert not categorical_nll(logits, x, torch.zeros_like(x, dtype=torch.bool)).any()


def test_categories_seen_in_part() -> None:
    """All that the seen entries leave possible: the 1 if it is seen, else any of those that are not."""
    logits = torch.from_numpy(GENERATOR.normal(size=(64, 4)))
    x = torch.nn.functional.one_hot(torch.from_numpy(GENERATOR.integers(0, 4, 64)), 4).double()
    mask = torch.from_numpy(GENERATOR.random((64, 4)) < 0.5)
    found = categorical_nll(logits, torch.where(mask, x, torch.nan), mask)
    for row, p in enumerate(torch.softmax(logits, 1)):
        seen = (mask[row] & (x[row] > 0)).any()
        expected = p[x[row] > 0].sum() if seen else p[~mask[row]].sum()
        close(found[row], -expected.log())


def extremes(*ranges: Any) -> list[Tensor]:
    return [column(values).float() for values in zip(*product(*ranges), strict=True)]


COUNTS = (0.0, 0.5, 1.0, 15.0, 16.0, 1e7, 3e38)


EXTREMES = {
    "laplace": (laplace_nll, extremes(HUGE, HUGE, HUGE)),
    "continuous_bernoulli": (continuous_bernoulli_nll, extremes(HUGE, (0.0, 1e-40, 0.5, 1.0))),
    "student_t": (student_t_nll, extremes(HUGE, HUGE, HUGE, HUGE)),
    "poisson": (poisson_nll, extremes(HUGE, COUNTS)),
    "zip": (lambda m, zero, x, impl: poisson_nll(m, x, zero_logits=zero, impl=impl), extremes(HUGE, HUGE, COUNTS)),
    "negative_binomial": (negative_binomial_nll, extremes(HUGE, HUGE, COUNTS)),
    "zinb": (
        lambda m, r, z, x, impl: negative_binomial_nll(m, r, x, zero_logits=z, impl=impl),
        extremes(HUGE, HUGE, HUGE[::2], COUNTS),
    ),
}


@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize("name", EXTREMES)
def test_finite_extremes_never_give_nan(name: str, impl: str) -> None:
    op, values = EXTREMES[name]
    found = op(*values, impl=impl)
    assert not found.isnan().any()
    assert not (found == -torch.inf).any()
    moderate = torch.stack([value.abs() <= 61 for value in values]).all(0)[:, 0]
    assert found[moderate].isfinite().all()


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_categories_of_extreme_logits(impl: str) -> None:
    logits = torch.tensor([[3e38, -3e38, 0.0], [1e5, 1e5, 1e5], [-3e38, -3e38, -3e38]])
    for code in range(3):
        x = torch.nn.functional.one_hot(torch.full((3,), code), 3).float()
        assert not categorical_nll(logits, x, impl=impl).isnan().any()


@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize(
    "op", ["laplace_nll", "student_t_nll", "continuous_bernoulli_nll", "poisson_nll", "negative_binomial_nll"]
)
def test_entries_that_do_not_count_may_be_anything(op: str, impl: str) -> None:
    parameter, x, mask = torch.ones(2, 3), torch.ones(2, 3), torch.tensor([[True, False, True]] * 2)
    others = {"student_t_nll": 2, "laplace_nll": 1, "negative_binomial_nll": 1}.get(op, 0)
    call = partial(getattr(fastvae_kernels, op), impl=impl)
    holes = x.masked_fill(~mask, torch.nan)
    expected = call(parameter[:, ::2], *[torch.tensor(0.5)] * others, x[:, ::2])
    assert torch.equal(call(parameter, *[torch.tensor(0.5)] * others, holes, mask), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: laplace_nll(x, torch.ones(2), x), r"log_scale must have shape \(2, 3\) or \(3,\) or \(\)"),
        (lambda x: student_t_nll(x, x, torch.ones(2), x), "log_df must have shape"),
        (lambda x: negative_binomial_nll(x, torch.ones(2), x), "log_dispersion must have shape"),
        (lambda x: poisson_nll(x, x, zero_logits=torch.ones(2)), "zero_logits must have shape"),
        (lambda x: categorical_nll(x[None], x[None]), "logits must have 2 axes"),
        (lambda x: continuous_bernoulli_nll(x, x[:, :2]), "logits must have shape"),
    ],
)
def test_wrong_shapes_are_refused(call: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 3))
