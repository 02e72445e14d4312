"""Scores of counts, categories and heavy tails in Triton: accuracy, any shape, memory around them, and a row's bits."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastvae_kernels import categorical_nll, negative_binomial_nll, poisson_nll, student_t_nll
from fastvae_kernels.pieces import row_pieces
from fastvae_kernels.testing import assert_op_within
from fastvae_kernels.triton import categorical_nll as categories
from fastvae_kernels.triton import head_scores
from fastvae_kernels.tuning import RowScoreConfig, config_for
from tests.kernels.support import CUDA, DEVICE, assert_guards_stand, framed, guarded

EPS = 2.0**-24
N = 600
# Of 4 columns, so that a few dozen make many pieces; of 3 pieces at most.
CONFIGS = [RowScoreConfig(16, 4, 4, 1, 64, 1, 2, 4, 64), RowScoreConfig(64, 64, 8, 2, 3, 1, 2, 4, 64)]
LIKELIHOODS = ("student_t", "poisson", "negative_binomial")
KINDS = st.sampled_from(("row", "shared", "scalar"))


def normal(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(shape) * scale).to(DEVICE, dtype)


def uniform(low: float, high: float) -> Tensor:
    return torch.linspace(low, high, N)[torch.randperm(N)][:, None].to(DEVICE)


def counts(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(shape) * 60 - 20).clamp_min(0).floor().to(DEVICE, dtype)


def _error(found: Tensor, expected: Tensor) -> Tensor:
    return (found.double() - expected).abs()


def _likely(m: Tensor, r: Tensor | None = None) -> Tensor:
    """Counts as likely as not, and every seventh any at all."""
    rate = m.double().exp()
    if r is not None:
        theta = r.double().exp()
        rate = torch.distributions.Gamma(theta, theta / rate).sample()
    x = torch.poisson(rate.cpu()).float().to(DEVICE)
    x[::7] = torch.randint(0, 5000, x[::7].shape, device=DEVICE).float()
    return x


def _slope(x: Tensor, m: Tensor, r: Tensor | None = None) -> Tensor:
    """By how much a nat of log-mean changes the score: |μ - x| θ / (θ + μ)."""
    mean = m.double().exp()
    share = 1.0 if r is None else torch.sigmoid(r.double() - m.double())
    return ((mean - x.double()).abs() * share)[:, 0]


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("low", [-12.0, 8.0])
def test_counts_in_float32(low: float, zeros: bool) -> None:
    """A score is right to 12 roundings, and to 3 of t = m - log x, which is a difference of at most 13 in two parts.

    Where log x, and not what it is in two parts, is taken from m, t is off by 8 roundings of 1 at counts of 1e5, which
    makes 100 roundings of a score here.
    """
    m, r, logits = uniform(low, 13.0), uniform(-8.0, 20.0), uniform(-20.0, 20.0)
    extra = {"zero_logits": logits} if zeros else {}
    wide = {name: value.double() for name, value in extra.items()}
    x = _likely(m)
    t = (m.double() - x.double().clamp_min(1).log()).abs()[:, 0]
    exact = poisson_nll(m.double(), x.double(), **wide)
    budget = EPS * (12 * (1 + exact.abs()) + 3 * (1 + t) * _slope(x, m))
    assert (_error(poisson_nll(m, x, **extra, impl="triton"), exact) <= budget).all()
    x = _likely(m, r)
    t = (m.double() - x.double().clamp_min(1).log()).abs()[:, 0]
    exact = negative_binomial_nll(m.double(), r.double(), x.double(), **wide)
    budget = EPS * (12 * (1 + exact.abs()) + 3 * (1 + t) * _slope(x, m, r))
    assert (_error(negative_binomial_nll(m, r, x, **extra, impl="triton"), exact) <= budget).all()


def test_few_degrees_of_freedom_and_very_many() -> None:
    """Eight roundings of what is added, and of what is multiplied: a distance, a scale, ν, log(1 + y²/ν), ½ (ν + 1)."""
    x, at, s, log_df = uniform(-50, 50), uniform(-5, 5), uniform(-8, 8), uniform(-70, 70)
    exact = student_t_nll(at.double(), s.double(), log_df.double(), x.double())
    found = student_t_nll(at, s, log_df, x, impl="triton")
    size = 1 + exact.abs() + s.double().abs()[:, 0] + 0.5 * log_df.double().abs().clamp_max(60)[:, 0]
    assert (_error(found, exact) <= 8 * EPS * size).all()


def test_large_dispersions_are_a_poisson() -> None:
    m, r = uniform(-5, 12), uniform(40, 60)
    x = _likely(m)
    exact = poisson_nll(m.double(), x.double())
    budget = EPS * (12 * (1 + exact) + 12 * _slope(x, m)) + 1e-5
    assert (_error(negative_binomial_nll(m, r, x, impl="triton"), exact) <= budget).all()


def _further(kind: str, rows: int, dim: int, dtype: torch.dtype) -> Tensor:
    return normal(*{"row": (rows, dim), "shared": (dim,), "scalar": ()}[kind], dtype=dtype)


@settings(max_examples=15)
@given(
    op=st.sampled_from(("student_t_nll", "poisson_nll", "negative_binomial_nll", "categorical_nll")),
    n=st.integers(1, 5),
    samples=st.integers(1, 3),
    dim=st.one_of(st.integers(1, 40), st.integers(250, 530)),
    kinds=st.tuples(KINDS, st.one_of(st.none(), KINDS)),
    masked=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.bfloat16, torch.float16)),
)
def test_any_shape_within_budget(
    op: str, n: int, samples: int, dim: int, kinds: tuple[str, str | None], masked: bool, dtype: torch.dtype
) -> None:
    rows, (first, second) = n * samples, kinds
    one = _further(first, rows, dim, dtype)
    two = None if second is None else _further(second, rows, dim, dtype)
    location, x = normal(rows, dim, dtype=dtype), counts(n, dim, dtype=dtype)
    arguments: dict[str, dict[str, Any]] = {
        "student_t_nll": {"location": location, "log_scale": one, "log_df": one if two is None else two, "x": x},
        "poisson_nll": {"log_rate": location, "zero_logits": two, "x": x},
        "negative_binomial_nll": {"log_mean": location, "log_dispersion": one, "zero_logits": two, "x": x},
        "categorical_nll": {"logits": location, "x": _one_hot(n, dim, dtype)},
    }
    mask = torch.rand(n, dim, device=DEVICE) < 0.7 if masked else None
    assert_op_within(op, "triton", {**arguments[op], "mask": mask}, interpreted=not CUDA)


@pytest.mark.parametrize(("rows", "n", "dim"), [(0, 0, 3), (0, 3, 4), (4, 2, 0)])
def test_nothing_to_add_is_zero(rows: int, n: int, dim: int) -> None:
    location, x, scalar = torch.ones(rows, dim), torch.ones(n, dim), torch.tensor(0.5)
    found = (
        student_t_nll(location, scalar, scalar, x, impl="triton"),
        poisson_nll(location, x, impl="triton"),
        negative_binomial_nll(location, scalar, x, zero_logits=scalar, impl="triton"),
        categorical_nll(location, x, impl="triton"),
    )
    for scores in found:
        assert torch.equal(scores, torch.zeros(rows))


def _one_hot(n: int, dim: int, dtype: torch.dtype) -> Tensor:
    x = torch.zeros(n, dim, device=DEVICE, dtype=dtype)
    if dim:
        x[torch.arange(n), torch.randint(0, dim, (n,))] = 1
    return x


def _by_hand(likelihood: str, given: list[Tensor | None], config: RowScoreConfig, share: int | None = None) -> Tensor:
    scores, memory = guarded(given[0].shape[0])  # type: ignore[union-attr]
    head_scores.launch(*given, scores, likelihood=likelihood, config=config, share=share)  # type: ignore[arg-type]
    assert_guards_stand(memory)
    return scores


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: str(c.max_block_columns))
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 2, 17)], ids=str)
def test_reads_and_writes_what_is_its_own(shape: tuple[int, int, int], likelihood: str, config: RowScoreConfig) -> None:
    """Infinity beside every row and column; sentinels around the scores; and sharing rows out changes no bit."""
    rows, n, dim = shape
    mask = (torch.rand(n, dim, device=DEVICE) < 0.7).view(torch.uint8)
    surrounded = [framed(rows, dim), framed(n, dim), framed(rows, dim), framed(rows, dim), mask]
    whole = _by_hand(likelihood, surrounded, config, row_pieces(dim, config).pieces)
    plain = [None if t is None else t.clone() for t in surrounded]
    for share in (1, 2):
        assert torch.equal(_by_hand(likelihood, plain, config, share), whole)
    assert whole.isfinite().all()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: str(c.max_block_columns))
def test_categories_read_and_write_what_is_their_own(config: RowScoreConfig) -> None:
    sea = torch.full((5, 20), math.inf, device=DEVICE)
    logits, x = framed(6, 13), sea[1:-1, 3:16].copy_(_one_hot(3, 13, torch.float32))
    mask = (torch.rand(3, 13, device=DEVICE) < 0.7).view(torch.uint8)
    for seen in (None, mask):
        scores, memory = guarded(6)
        categories.launch(logits, x, seen, scores, config=config)
        assert_guards_stand(memory)
        expected = categorical_nll(logits, x, None if seen is None else seen.bool())
        torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)


def test_rows_of_a_tile_change_no_bit() -> None:
    narrow, wide = RowScoreConfig(8, 1, 8, 1, 4, 1, 2, 4, 64), RowScoreConfig(128, 16, 8, 1, 4, 1, 2, 4, 64)
    tensors = [normal(4, 11), counts(2, 11), normal(11), normal(4, 11), None]
    for likelihood in LIKELIHOODS:
        assert torch.equal(_by_hand(likelihood, tensors, narrow), _by_hand(likelihood, tensors, wide))


def test_categories_of_which_some_are_seen() -> None:
    """Those that are not seen together, whose logits may be far below the others'; all of them; none of them."""
    logits = torch.tensor([[0.0, -200.0, -201.0, 3.0]] * 4, device=DEVICE)
    x = torch.tensor([[0.0, 1.0, 0.0, 0.0]] * 4, device=DEVICE)
    mask = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], device=DEVICE).bool()
    found = categorical_nll(logits, x, mask, impl="triton")
    torch.testing.assert_close(found.double(), categorical_nll(logits.double(), x.double(), mask), rtol=2e-7, atol=0)
    assert found[3] == 0


NAN: dict[str, Callable[..., Tensor]] = {
    "student_t": lambda p, x: student_t_nll(p, torch.tensor(0.0), torch.tensor(1.0), x, impl="triton"),
    "student_t df": lambda p, x: student_t_nll(x, x, p, x, impl="triton"),
    "poisson": lambda p, x: poisson_nll(p, x, impl="triton"),
    "zip": lambda p, x: poisson_nll(x, x, zero_logits=p, impl="triton"),
    "negative_binomial": lambda p, x: negative_binomial_nll(p, x, x, impl="triton"),
    "dispersion": lambda p, x: negative_binomial_nll(x, p, x, impl="triton"),
    "categorical": lambda p, x: categorical_nll(p, x, impl="triton"),
}


@pytest.mark.parametrize("name", NAN)
def test_a_parameter_that_is_nan_shows(name: str) -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 1.0]])
    p = torch.tensor([[torch.nan, 0.0], [0.0, torch.nan], [0.5, 0.5]])
    assert NAN[name](p, x).isnan().tolist() == [True, True, False]


def test_the_shipped_tiles_are_those_of_the_config() -> None:
    config = config_for("head_scores", torch.device("cpu"))
    assert isinstance(config, RowScoreConfig)
    assert config.unroll == 1
    cut = row_pieces(2000, config)
    assert cut.block_rows * cut.block_columns <= config.block_elements
