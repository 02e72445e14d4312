"""Group norm and attention: known answers, images of any size within bounds derived by hand, and blocks of scores.

A bound allows 2**-23, two roundings to nearest, for every operation; sums may run in any order.
"""

import importlib
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastvae_kernels import attention, group_norm, implementations
from fastvae_kernels.layout import output_format
from fastvae_kernels.testing import roundoff
from tests.kernels.support import DEVICE, EPS32, NARROW, interpreted

REFERENCE = importlib.import_module("fastvae_kernels.reference.attention")
ROWS = st.integers(0, 4)
PARTS = st.integers(1, 3)
SIDE = st.integers(0, 6)
DTYPES = st.sampled_from(NARROW)


def image(*shape: int, dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> Tensor:
    """Random numbers: contiguous, with channels innermost, or in the middle of infinities."""
    values = torch.randn(shape, device=DEVICE).to(dtype)
    if layout != "framed":
        formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
        return values.contiguous(memory_format=formats[layout])
    wide = torch.full([2 * size + 3 for size in shape], float("inf"), device=DEVICE).to(dtype)
    middle = wide[tuple(slice(1, 1 + 2 * size, 2) for size in shape)]
    return middle.copy_(values)


LAYOUT = st.sampled_from(("contiguous", "channels_last", "framed"))


def narrowing(impl: str, dtype: torch.dtype, size: Tensor) -> Tensor | float:
    """What rounding a result of at most this size to `dtype` may cost; 2**-25: half a float16 subnormal."""
    if dtype == torch.float32:
        return 0.0
    return roundoff(dtype, interpreted=interpreted(impl)) * size + 2.0**-25


def normalised(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """The definition in float64 without its activation, and a bound on the error of computing it in float32.

    With u for a unit and k numbers a group: the first mean is off by at most e = (k + 1) u mean|x|. What is then
    left, d + e, has a mean of at most a = mean|d| + e, known to (k + 1) u a; two subtractions round. So d is off by
    δ <= u (2 (|d| + e) + (k + 3) a). That changes var, at most s² = var + eps, by 2 mean(|d| δ) + mean(δ²), and its
    sum by (k + 3) u var; s by half of that (1.1 for the second order) and the roundings of sum, root and quotient.
    Then there are the scale's product, x's, and bias.
    """
    n, channels, h, w = x.shape
    flat = x.double().reshape(n, groups, channels // groups * h * w)
    k = flat.shape[2]
    d = flat - flat.mean(2, keepdim=True)
    var = (d * d).mean(2, keepdim=True)
    s = (var + eps).sqrt()
    e = (k + 1) * EPS32 * flat.abs().mean(2, keepdim=True)
    a = d.abs().mean(2, keepdim=True) + e
    delta = EPS32 * (2 * (d.abs() + e) + (k + 3) * a)
    off = 2 * (d.abs() * delta).mean(2, keepdim=True) + (delta**2).mean(2, keepdim=True) + (k + 3) * EPS32 * var
    z_error = delta / s + (d / s).abs() * (0.55 * off / s**2 + 5 * EPS32)
    wide, shift = weight.double()[:, None, None], bias.double()[:, None, None]
    scaled = (d / s).view(x.shape) * wide
    bound = z_error.view(x.shape) * wide.abs() + EPS32 * (scaled.abs() + 2 * shift.abs()) + 2.0**-126
    return scaled + shift, bound


@pytest.mark.parametrize("impl", implementations("group_norm"))
@given(
    n=ROWS,
    groups=PARTS,
    part=SIDE,
    h=SIDE,
    w=SIDE,
    mean=st.sampled_from((0.0, -1e3)),
    eps=st.sampled_from((1e-5, 0.3)),
    dtype=DTYPES,
    layout=LAYOUT,
    silu=st.booleans(),
)
def test_group_norm(
    impl: str,
    n: int,
    groups: int,
    part: int,
    h: int,
    w: int,
    mean: float,
    eps: float,
    dtype: torch.dtype,
    layout: str,
    silu: bool,
) -> None:
    x = image(n, groups * part, h, w, dtype=dtype, layout=layout).add_(mean)
    weight, bias = torch.randn(2, groups * part, device=DEVICE).to(dtype)
    activation = "silu" if silu else "identity"
    y = group_norm(x, weight, bias, groups=groups, eps=eps, activation=activation, impl=impl)
    assert (y.shape, y.dtype, output_format(y)) == (x.shape, dtype, output_format(x))
    if not x.numel():
        return
    exact, bound = normalised(x, weight, bias, groups, eps)
    if silu:  # |silu'| <= 1.1; silu's own roundings: 3 units
        exact, bound = exact * torch.sigmoid(exact), 1.1 * bound + 3 * EPS32 * exact.abs()
    assert ((y.double() - exact).abs() <= bound + narrowing(impl, dtype, exact.abs() + bound)).all()


@pytest.mark.parametrize("impl", implementations("group_norm"))
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_group_norm_of_a_large_mean_does_not_cancel(impl: str, layout: str) -> None:
    """A mean of 1e5 standard deviations, and no eps to hide behind: 1e-2 is 160 units of 1e3 in float32."""
    x = image(3, 4, 8, 8, layout=layout) * 1e-2 + 1e3
    one, zero = torch.ones(4, device=DEVICE), torch.zeros(4, device=DEVICE)
    exact, bound = normalised(x, one, zero, 2, 0.0)
    assert bound.max() < 5e-4
    assert ((group_norm(x, groups=2, eps=0.0, impl=impl).double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("impl", implementations("group_norm"))
def test_group_norm_by_hand(impl: str) -> None:
    """Channels (1, 5), (3, 3) and (0, 0), (4, 4): means 3 and 2, variances 2 and 4."""
    x = torch.tensor([1.0, 5, 3, 3, 0, 0, 4, 4], device=DEVICE).view(1, 4, 1, 2)
    y = group_norm(x, groups=2, eps=0.0, impl=impl)
    torch.testing.assert_close(y.flatten(), x.new_tensor([-(2**0.5), 2**0.5, 0, 0, -1, -1, 1, 1]))
    weight, bias = x.new_tensor([3.0, 1, 2, 10]), x.new_tensor([0.0, 0, 5, -1])
    y = group_norm(x, weight, bias, groups=2, eps=12.0, activation="relu", impl=impl)
    torch.testing.assert_close(y.flatten(), x.new_tensor([0, 6 * 14**-0.5, 0, 0, 4, 4, 4, 4]))


@pytest.mark.parametrize("impl", implementations("group_norm"))
def test_group_norm_takes_parameters_of_another_dtype(impl: str) -> None:
    x, weight, bias = image(2, 4, 3, 3, dtype=torch.bfloat16), torch.randn(4), torch.randn(4).double()
    y = group_norm(x, weight.to(DEVICE), bias.to(DEVICE), groups=2, impl=impl)
    exact, bound = normalised(x, weight.to(DEVICE), bias.to(DEVICE), 2, 1e-5)
    assert y.dtype == torch.bfloat16
    assert ((y.double() - exact).abs() <= bound + narrowing(impl, torch.bfloat16, exact.abs() + bound)).all()


@pytest.mark.parametrize("impl", implementations("group_norm"))
def test_nan_stays_in_its_group(impl: str) -> None:
    x = image(3, 4, 5, 5)
    clean = group_norm(x, groups=2, impl=impl)
    x[1, 2, 3, 4] = float("nan")
    y = group_norm(x, groups=2, impl=impl)
    assert y[1, 2:].isnan().all()
    y[1, 2:] = clean[1, 2:]
    assert torch.equal(y, clean)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="a sum's order follows the number of sums on a GPU")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_group_norm_of_a_row_has_the_same_bits_in_any_batch(layout: str) -> None:
    x = image(7, 12, 9, 8, layout=layout)
    full = group_norm(x, groups=3)
    for rows in (slice(0, 1), slice(3, 6), slice(6, 7)):
        assert torch.equal(group_norm(x[rows], groups=3), full[rows])


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """The definition in float64, and a bound on the error of computing it in float32, head by head.

    With u for a unit, d channels and K keys a head: a logit l is off by (d + 3) u of the sum of its terms' sizes, the
    difference to the largest by a rounding, its exponential by 2 u. Each weight is thus off by a factor 1 + r (1.1 for
    the second order), and the mean of v's by the mean of r|v|, by that of r times that of |v|, and by the K + 2
    operations of each sum and the quotient. Weights under 2**-126 may be lost.
    """
    results, bounds = [], []
    parts = zip(*(x.double().flatten(2).chunk(heads, 1) for x in (q, k, v)), strict=True)
    for query, key, value in parts:
        d, keys = key.shape[1:]
        logits = torch.einsum("ncq,nck->nqk", query, key) / math.sqrt(d)
        sizes = torch.einsum("ncq,nck->nqk", query.abs(), key.abs()) / math.sqrt(d)
        largest = logits.amax(2, keepdim=True)
        weights = (logits - largest).exp()
        weights /= weights.sum(2, keepdim=True)
        r = 1.1 * EPS32 * ((d + 3) * sizes + largest - logits + 2)
        mean, spread = weights @ value.mT, weights @ value.abs().mT
        error = (weights * r) @ value.abs().mT + (weights * r).sum(2, keepdim=True) * spread
        results.append(mean)
        bounds.append(error + (2 * keys + 5) * EPS32 * spread + keys * 2.0**-126 * (1 + value.abs().amax()))
    shape = (q.shape[0], v.shape[1], *q.shape[2:])
    exact, bound = (torch.cat(heads_, 2).mT.reshape(shape) for heads_ in (results, bounds))
    return exact, bound


def weight_rounding(impl: str, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor | float:
    """What a kernel for 16-bit dtypes adds by rounding its weights p, the largest of which is 1, before their products.

    Each is off by t p with t the dtype's `roundoff` or, among float16's subnormals, by 2**-25. Their sum is that of the
    rounded ones and at least 1, so a mean of v's is off by at most twice that; 1.01 for the second order.
    """
    if impl == "reference" or q.dtype == torch.float32:
        return 0.0
    spread = attended(q, k, v.abs(), heads)[0]
    unit = roundoff(q.dtype, interpreted=interpreted(impl))
    return 2 * (1.01 * unit * spread + k.shape[2] * k.shape[3] * 2.0**-25 * v.double().abs().amax())


@pytest.mark.parametrize("impl", implementations("attention"))
@given(
    n=ROWS,
    heads=PARTS,
    channels=st.integers(1, 5),
    outputs=st.integers(0, 4),
    size=st.tuples(SIDE, SIDE),
    keys=st.one_of(st.none(), st.tuples(st.integers(1, 5), st.integers(1, 5))),
    dtype=DTYPES,
    layout=LAYOUT,
)
def test_attention(
    impl: str,
    n: int,
    heads: int,
    channels: int,
    outputs: int,
    size: tuple[int, int],
    keys: tuple[int, int] | None,
    dtype: torch.dtype,
    layout: str,
) -> None:
    others = keys or tuple(max(side, 1) for side in size)
    q = image(n, heads * channels, *size, dtype=dtype, layout=layout)
    k = image(n, heads * channels, *others, dtype=dtype, layout=layout)
    v = image(n, heads * outputs, *others, dtype=dtype, layout=layout)
    y = attention(q, k, v, heads=heads, impl=impl)
    assert (y.shape, y.dtype) == ((n, heads * outputs, *size), dtype)
    assert y.is_contiguous(memory_format=output_format(q))
    if not y.numel():
        return
    exact, bound = attended(q, k, v, heads)
    bound += weight_rounding(impl, q, k, v, heads)
    assert ((y.double() - exact).abs() <= bound + narrowing(impl, dtype, exact.abs() + bound)).all()


@pytest.mark.parametrize("impl", implementations("attention"))
def test_attention_by_hand(impl: str) -> None:
    """Two heads of four channels and two keys: logits ln 3 and 0, then 0 and 0."""
    q, k = torch.zeros(1, 8, 1, 1, device=DEVICE), torch.zeros(1, 8, 1, 2, device=DEVICE)
    q[0, 1], k[0, 1, 0, 0] = 2.0, math.log(3.0)
    v = torch.tensor([[4.0, 8.0], [1.0, -1.0]], device=DEVICE).view(1, 2, 1, 2)
    torch.testing.assert_close(attention(q, k, v, heads=2, impl=impl).flatten(), v.new_tensor([5.0, 0.0]))


@pytest.mark.parametrize("impl", implementations("attention"))
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_large_logits_choose(impl: str, dtype: torch.dtype) -> None:
    """Logits of 1e4 and -1e4, which an exponential in float32 does not hold: all weight is on the largest."""
    q = torch.tensor([100.0, -100.0, 0.0], device=DEVICE).view(1, 1, 1, 3).to(dtype)
    k = torch.tensor([100.0, -100.0], device=DEVICE).view(1, 1, 2, 1).to(dtype)
    v = torch.tensor([3.0, 7.0], device=DEVICE).view(1, 1, 2, 1).to(dtype)
    assert attention(q, k, v, impl=impl).flatten().tolist() == [3.0, 7.0, 5.0]


class Largest(TorchDispatchMode):
    """Keeps the size in bytes of the largest tensor made."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.size = max(self.size, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("limit", [1, 160, 160 * 5, 160 * 36, 160 * 36 * 3, 2**26])
def test_blocks_of_any_size_give_the_same(limit: int, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """160 bytes a query of two heads: blocks of one, five and a last one of fewer; of 1, 3 and all 7 images."""
    q = image(7, 6, 6, 6, layout=layout)
    k, v = image(7, 6, 4, 5, layout=layout), image(7, 4, 4, 5, layout=layout)
    exact, bound = attended(q, k, v, 2)
    monkeypatch.setattr(REFERENCE, "SCORE_BYTES", limit)
    y = attention(q, k, v, heads=2, impl="reference")
    assert ((y.double() - exact).abs() <= bound).all()


def test_scores_stay_within_their_limit() -> None:
    """Those of these 9,025 pixels are 311 MiB, and no tensor is larger than a block of them."""
    x = image(1, 2, 95, 95)
    with Largest() as largest:
        y = REFERENCE.attention(x, x, x, 1)
    assert REFERENCE.SCORE_BYTES / 2 < largest.size <= REFERENCE.SCORE_BYTES
    rows = slice(90, 95)
    exact, bound = attended(x[:, :, rows], x, x, 1)
    assert ((y[:, :, rows].double() - exact).abs() <= bound).all()


def test_small_images_share_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six at a time take the limit and no more."""
    x, limit = image(40, 2, 4, 4), 6 * 4 * 16 * 16
    monkeypatch.setattr(REFERENCE, "SCORE_BYTES", limit)
    with Largest() as largest:
        REFERENCE.attention(x[:, :1], x[:, :1], x[:, :1], 1)
    assert largest.size == limit
