"""Values at the edge of what floating point holds: no NaN that the inputs did not bring."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastvae_kernels import bernoulli_nll, gaussian_nll, implementations, linear, logvar, reparameterize, sample_normal

pytestmark = [  # NumPy, under Triton's interpreter, on the overflows these tests are about
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IMPLS = implementations("reparameterize")
EXTREME = [0.0, 1e-30, -1e-3, 1.0, 88.0, 89.5, 177.0, 178.0, -87.5, -104.0, -209.0, 1e4, -1e4, 3e38, -3e38]
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_reparameterize_extreme_logvar(impl: str, dtype: torch.dtype) -> None:
    column = torch.tensor(EXTREME, device=DEVICE).to(dtype)
    column = column[column.isfinite()][:, None]
    mean = torch.tensor([0.0, 1e4, -3e18, 0.5], device=DEVICE).to(dtype).nan_to_num(posinf=1e4, neginf=-1e4)
    for value in mean:
        z, kl = reparameterize(value.expand_as(column), column, seed=1, samples=2, impl=impl)
        assert not z.isnan().any()
        assert not kl.isnan().any()
        wide = column.double()[:, 0]
        exact = 0.5 * (torch.expm1(wide) - wide + value.double() ** 2)
        # expm1, two products, two sums, and a term that may cancel: 8 roundings of terms no larger than these
        scale = torch.expm1(wide).abs() + wide.abs() + value.double() ** 2
        near = (kl.double() - exact).abs() <= 8 * 2.0**-24 * scale
        overflow = exact > 0.49 * torch.finfo(torch.float32).max
        assert (near | (overflow & kl.isinf())).all()


@pytest.mark.parametrize("impl", IMPLS)
@given(mean=st.lists(FINITE, min_size=1, max_size=9), spread=FINITE, seed=st.integers(0, 2**64 - 1))
def test_reparameterize_is_never_nan(impl: str, mean: list[float], spread: float, seed: int) -> None:
    mu = torch.tensor([mean], device=DEVICE)
    z, kl = reparameterize(mu, torch.full_like(mu, spread), seed=seed, impl=impl)
    assert not z.isnan().any()
    assert not kl.isnan().any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("spread", [178.0, 1e4, 3e38])
def test_overflowing_std_times_zero_noise_is_the_mean(impl: str, spread: float) -> None:
    """Row 38,471,471 of seed 0 is the first whose uniform rounds to 1, so that its two normals are exactly 0."""
    where = {"seed": 0, "start": 38_471_471, "impl": impl}
    assert not sample_normal(1, 2, **where, device=DEVICE).any()
    mean = torch.tensor([[1.5, -2.0]], device=DEVICE)
    z, _ = reparameterize(mean, torch.full_like(mean, spread), **where)
    assert torch.equal(z, mean)


@pytest.mark.parametrize("impl", IMPLS)
def test_zero_variance_is_the_mean(impl: str) -> None:
    mean = torch.tensor([[1.0, -2.0, 3e-30, 4e30]], device=DEVICE)
    z, _ = reparameterize(mean, torch.full_like(mean, -1e4), seed=3, impl=impl)
    assert torch.equal(z, mean)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("where", ["mean", "logvar"])
def test_nan_stays_in_its_row_and_shows(impl: str, where: str) -> None:
    inputs = {"mean": torch.zeros(5, 6, device=DEVICE), "logvar": torch.zeros(5, 6, device=DEVICE)}
    clean_z, clean_kl = reparameterize(**inputs, seed=2, impl=impl)
    inputs[where][2, 4] = float("nan")
    z, kl = reparameterize(**inputs, seed=2, impl=impl)
    assert z[2, 4].isnan()
    assert kl[2].isnan()
    others = torch.arange(5) != 2
    assert torch.equal(z[others], clean_z[others])
    assert torch.equal(kl[others], clean_kl[others])


@pytest.mark.parametrize("impl", IMPLS)
def test_kl_near_the_prior_does_not_cancel(impl: str) -> None:
    """Where exp(logvar) - 1 - logvar is a millionth of its terms."""
    column = torch.linspace(-1.2, 1.2, 97, device=DEVICE)[:, None]
    for scale in (1.0, 1e-3, 1e-5):
        v = column * scale
        _, kl = reparameterize(torch.zeros_like(v), v, seed=0, impl=impl)
        x = v.double()[:, 0]
        exact = 0.5 * (torch.expm1(x) - x)
        eager = 0.5 * (torch.expm1(v) - v)[:, 0]
        own = (eager.double() - exact).abs().max()
        assert ((kl.double() - exact).abs() <= 2 * own + 2.0**-23 * exact).all()


@pytest.mark.parametrize("impl", implementations("logvar"))
def test_softplus_std_has_no_floor(impl: str) -> None:
    raw = torch.tensor([-1e4, -200.0, -104.0, -88.0, -41.0, -39.0, 0.0, 90.0, 3e38], device=DEVICE)
    out = logvar(raw, parametrization="softplus_std", impl=impl)
    wide = raw.double()
    exact = 2 * torch.where(wide < -30, wide, torch.logaddexp(wide, torch.zeros_like(wide)).log())
    torch.testing.assert_close(out.double(), exact, rtol=4 * 2.0**-24, atol=1e-12)


@pytest.mark.parametrize("impl", implementations("logvar"))
@pytest.mark.parametrize("eps", [1e-50, 1e-30, 1e-6, 1.0])
def test_softplus_std_eps_is_a_floor(impl: str, eps: float) -> None:
    raw = torch.tensor([-3e38, -200.0, -10.0, 0.0, 10.0], device=DEVICE)
    out = logvar(raw, parametrization="softplus_std", eps=eps, impl=impl)
    wide = raw.double()
    exact = 2 * (torch.logaddexp(wide, torch.zeros_like(wide)) + eps).log()
    torch.testing.assert_close(out.double(), exact, rtol=4 * 2.0**-24, atol=8 * 2.0**-24)


@pytest.mark.parametrize("impl", implementations("logvar"))
def test_variance_saturates_at_the_smallest_normal(impl: str) -> None:
    raw = torch.tensor([-1.0, 0.0, 1e-45, 1.2e-38, 1.0, 3e38], device=DEVICE)
    out = logvar(raw, parametrization="variance", impl=impl)
    floor = math.log(torch.finfo(torch.float32).tiny)
    exact = raw.double().clamp_min(torch.finfo(torch.float32).tiny).log()
    assert out[:3].tolist() == pytest.approx([floor] * 3, rel=2.0**-23)
    torch.testing.assert_close(out.double(), exact, rtol=2.0**-22, atol=0)


def bernoulli_exact(logit: Tensor, x: Tensor) -> Tensor:
    wide = logit.double()
    return wide.clamp_min(0) - x.double() * wide + torch.log1p(torch.exp(-wide.abs()))


@pytest.mark.parametrize("impl", implementations("bernoulli_nll"))
@pytest.mark.parametrize("target", [0.0, 1.0, 0.25])
def test_bernoulli_confident_logits(impl: str, target: float) -> None:
    logit = torch.tensor([[-3e38], [-1e4], [-80.0], [-20.0], [0.0], [20.0], [80.0], [3e38]], device=DEVICE)
    x = torch.full_like(logit, target)
    nll = bernoulli_nll(logit, x, impl=impl)
    torch.testing.assert_close(nll.double(), bernoulli_exact(logit, x)[:, 0], rtol=2.0**-22, atol=0)


@pytest.mark.parametrize("impl", implementations("gaussian_nll"))
@given(mean=FINITE, x=FINITE, spread=FINITE)
def test_gaussian_is_never_nan(impl: str, mean: float, x: float, spread: float) -> None:
    parameters = (torch.tensor([[v]], device=DEVICE) for v in (mean, spread, x))
    assert not gaussian_nll(*parameters, impl=impl).isnan().any()


@pytest.mark.parametrize("impl", implementations("gaussian_nll"))
def test_gaussian_extreme_logvar(impl: str) -> None:
    v = torch.tensor(EXTREME, device=DEVICE)[:, None]
    for d in (0.0, 1e-20, 1.0, 1e10):
        nll = gaussian_nll(torch.zeros_like(v), v, torch.full_like(v, d), impl=impl)
        wide = v.double()[:, 0]
        square = torch.exp(2 * math.log(d) - wide) if d else torch.zeros_like(wide)
        exact = 0.5 * (math.log(2 * math.pi) + wide + square)
        # 32: logvar / 2 is exact, its exp is good to 2 units and squared; so are d and the three sums.
        close = (nll.double() - exact).abs() <= 32 * 2.0**-24 * (wide.abs() + square + 2)
        overflow = (exact > 3e38) & nll.isinf()
        # From here exp(-logvar / 2) is at its ceiling: the term is huge or, next to -logvar / 2, not.
        saturated = wide < -177
        assert (close | overflow | saturated).all()
        assert not nll.isnan().any()


@pytest.mark.parametrize("impl", implementations("gaussian_nll"))
def test_masked_entries_contribute_exactly_nothing(impl: str) -> None:
    n, d, samples = 3, 5, 2
    x = torch.randn(n, d, device=DEVICE)
    mask = torch.rand(n, d, device=DEVICE) < 0.5
    mask[0] = False
    dirty = torch.where(mask, x, float("nan"))
    parameter = torch.randn(samples * n, d, device=DEVICE)
    spread = torch.randn(samples * n, d, device=DEVICE)
    for score in (
        lambda data: gaussian_nll(parameter, spread, data, mask, impl=impl),
        lambda data: bernoulli_nll(parameter, data, mask, impl=impl),
    ):
        clean = score(x)
        assert torch.equal(score(dirty), clean)
        assert torch.equal(clean[::n], torch.zeros(samples, device=DEVICE))
    half = x.clone()
    half[1, 1], mask[1, 1] = float("nan"), True
    assert gaussian_nll(parameter, spread, half, mask, impl=impl)[1::n].isnan().all()


@pytest.mark.parametrize("impl", implementations("linear"))
def test_large_mean_activations_do_not_cancel(impl: str) -> None:
    """softplus and gelu keep relative accuracy in the tail where 1 + erf and log(1 + x) lose it."""
    x = torch.tensor([[-3.0], [-5.0], [-8.0], [-20.0]], device=DEVICE)
    one = torch.ones(1, 1, device=DEVICE)
    wide = x.double()
    gelu = wide * 0.5 * torch.special.erfc(-wide * 0.5**0.5)
    # erfc's derivative magnifies the rounding of its argument by x²: 64 + 8 roundings at -8.
    actual = linear(x, one, activation="gelu", impl=impl).double()
    assert ((actual - gelu).abs()[:3] <= 72 * 2.0**-24 * gelu.abs()[:3]).all()
    soft = linear(x, one, activation="softplus", impl=impl).double()
    torch.testing.assert_close(soft, torch.log1p(wide.exp()), rtol=4 * 2.0**-24, atol=0)
