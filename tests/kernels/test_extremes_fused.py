"""The fused ops at the edge of what floating point holds: no NaN that the inputs did not bring, and none hidden."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastvae_kernels import bottleneck, elbo, gaussian_head, implementations, linear, linear_score, quantize_rows
from fastvae_kernels.cases import CASES
from tests.kernels.support import DEVICE, IMPLS, call, case_of

pytestmark = [  # NumPy, under Triton's interpreter, on the overflows these tests are about
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
TINY, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
NAN = float("nan")
# Op, case and argument whose entry 1 of row 2 becomes NaN.
POISONED = [
    ("linear", "residual", "x"),
    ("linear", "residual", "residual"),
    ("gaussian_head", "chunked", "x"),
    ("bottleneck", "chunked", "x"),
    ("linear_score", "outputs", "x"),
    ("linear_score", "outputs", "data"),
    ("elbo", "gaussian", "output"),
    ("elbo", "gaussian", "data"),
]


def column(*values: float) -> Tensor:
    return torch.tensor(values, device=DEVICE)[:, None]


def constant_head(logvar: float, latent: int = 3) -> dict[str, Any]:
    """A head whose mean is x, twice and more, and whose log-variance is the same for every x."""
    ones, zeros = torch.ones(latent, 1, device=DEVICE), torch.zeros(latent, 1, device=DEVICE)
    bias = torch.full((latent,), logvar, device=DEVICE)
    return {"mean_weight": ones, "mean_bias": None, "logvar_weight": zeros, "logvar_bias": bias}


@pytest.mark.parametrize("impl", implementations("gaussian_head"))
@given(mean=FINITE, logvar=FINITE, seed=st.integers(0, 2**64 - 1))
def test_head_is_never_nan(impl: str, mean: float, logvar: float, seed: int) -> None:
    z, kl, *_ = gaussian_head(column(mean), **constant_head(logvar), seed=seed, samples=2, posterior=True, impl=impl)
    assert not z.isnan().any()
    assert not kl.isnan().any()


@pytest.mark.parametrize("impl", implementations("gaussian_head"))
@pytest.mark.parametrize("value", [-LARGEST, -1e4, 0.0, 1e4, LARGEST])
def test_clamps_hold_at_any_log_variance(impl: str, value: float) -> None:
    head = constant_head(value)
    limits = {"minimum": -20.0, "maximum": 10.0}
    _, kl, _, logvar = gaussian_head(column(0.0), **head, **limits, posterior=True, impl=impl)
    exact = torch.full((1, 3), value, device=DEVICE).clamp(-20, 10)
    assert torch.equal(logvar, exact)
    expected = 0.5 * (torch.expm1(exact.double()) - exact.double()).sum(1)
    assert ((kl.double() - expected).abs() <= 8 * 2.0**-23 * expected).all()


@pytest.mark.parametrize("impl", implementations("gaussian_head"))
def test_overflowed_log_variance_is_clamped_too(impl: str) -> None:
    """Its product is infinite; `maximum` makes it a number again."""
    x, large = column(LARGEST), torch.full((2, 1), 10.0, device=DEVICE)
    small = torch.zeros(2, 1, device=DEVICE)
    z, kl = gaussian_head(x, small, None, large, None, seed=1, maximum=10.0, impl=impl)
    assert z.isfinite().all()
    assert kl.isfinite().all()


@pytest.mark.parametrize("impl", implementations("bottleneck"))
@given(mean=FINITE, logvar=FINITE)
def test_bottleneck_of_clamped_log_variance_is_never_nan(impl: str, mean: float, logvar: float) -> None:
    weight = torch.ones(2, 3, device=DEVICE)
    y, kl = bottleneck(column(mean), **constant_head(logvar), weight=weight, seed=1, maximum=20.0, impl=impl)
    assert not y.isnan().any()
    assert not kl.isnan().any()


@pytest.mark.parametrize("impl", implementations("linear_score"))
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "squared_error"])
@given(parameter=FINITE, x=FINITE, logvar=FINITE)
def test_scores_are_never_nan(impl: str, likelihood: str, parameter: float, x: float, logvar: float) -> None:
    spread = torch.tensor(logvar, device=DEVICE) if likelihood == "gaussian" else None
    data = column(x).sigmoid() if likelihood == "bernoulli" else column(x)
    one, prior = torch.ones(1, 1, device=DEVICE), torch.zeros(1, 2, device=DEVICE)
    score = linear_score(column(parameter), one, None, data, likelihood=likelihood, logvar=spread, impl=impl)
    assert not score.isnan().any()
    elbo_impl = impl if impl in implementations("elbo") else "reference"
    settings = {"likelihood": likelihood, "output_logvar": spread, "impl": elbo_impl}
    assert not any(part.isnan().any() for part in elbo(column(parameter), data, prior, prior, **settings))


@pytest.mark.parametrize(("op", "impl"), [pair for pair in IMPLS if pair[0] in ("linear_score", "elbo")])
def test_masked_entries_contribute_exactly_nothing(op: str, impl: str) -> None:
    for case in CASES[op]:
        arguments = case_of(op, case)
        if arguments["mask"] is None:
            continue
        arguments["mask"][0] = False
        clean = call(op, impl, arguments)
        dirty = torch.where(arguments["mask"], arguments["data"], NAN)
        for a, b in zip(call(op, impl, {**arguments, "data": dirty}), clean, strict=True):
            assert torch.equal(a, b)
        score = clean[0] if op == "linear_score" else clean[1]
        assert not score[:: len(dirty)].any()


@pytest.mark.parametrize(
    ("op", "impl", "case", "name"),
    [(op, impl, case, name) for op, case, name in POISONED for impl in implementations(op)],
)
def test_nan_stays_in_its_row_and_shows(op: str, impl: str, case: str, name: str) -> None:
    arguments = case_of(op, case)
    clean = call(op, impl, arguments)
    arguments[name][2, 1] = NAN
    for index, (dirty, before) in enumerate(zip(call(op, impl, arguments), clean, strict=True)):
        others = torch.arange(len(before), device=DEVICE) != 2
        assert torch.equal(dirty[others], before[others])
        assert dirty[2].isnan().any() or (op == "elbo" and index == 2)


@pytest.mark.parametrize("impl", implementations("quantize_rows"))
def test_quantised_extremes(impl: str) -> None:
    x = torch.zeros(6, 5, device=DEVICE)
    x[1, 3], x[2], x[3, 0] = LARGEST, 1e-45, -TINY
    x[4, 0], x[4, 1] = NAN, 2.0
    x[5, 0], x[5, 1] = float("inf"), 1.0
    q, scale = quantize_rows(x, impl=impl)
    assert (scale >= TINY).all()
    assert scale.isfinite().all()
    assert scale[0] == 1
    assert q[:4].float().isfinite().all()
    assert q[1].float().tolist() == [0, 0, 0, 448, 0]
    assert q[4, 0].float().isnan()
    assert q[4, 1:].float().isfinite().all()
    assert q[4, 1].float() == 448
    assert q[5].float().tolist() == [448, 0, 0, 0, 0]


def test_tf32_rounds_to_nearest_even() -> None:
    unit = 2.0**-10
    given_, expected = zip(
        (1.0, 1.0),
        (1 + unit / 2, 1.0),
        (1 + 1.5 * unit, 1 + 2 * unit),
        (1 + 0.501 * unit, 1 + unit),
        (-1 - 0.501 * unit, -1 - unit),
        (2 - unit / 4, 2.0),
        (LARGEST, float("inf")),
        (float("-inf"), float("-inf")),
        (NAN, NAN),
        strict=True,
    )
    one = torch.ones(1, 1, device=DEVICE)
    y = linear(column(*given_), one, precision="tf32", impl="reference")
    torch.testing.assert_close(y, column(*expected), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("impl", implementations("linear"))
def test_saturated_8_bit_operands_do_not_overflow(impl: str) -> None:
    largest = torch.full((2, 33), 448.0, device=DEVICE).to(torch.float8_e4m3fn)
    scale = torch.ones(2, device=DEVICE)
    y = linear(largest, largest, x_scale=scale, weight_scale=scale, out_dtype=torch.float32, impl=impl)
    assert torch.equal(y, torch.full((2, 2), 33 * 448.0**2, device=DEVICE))
