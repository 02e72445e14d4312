"""The noise contract: known answers, invariance to how it is asked for, and that it is noise."""

import math
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import fastvae_kernels
from fastvae_kernels import implementations, reparameterize, sample_normal, sample_uniform
from fastvae_kernels.common.noise import normals, philox_words
from fastvae_kernels.cpu import sample_normal as sample_on_cpu
from fastvae_kernels.reference import philox4x32
from fastvae_kernels.reference import sample_normal as reference_sample
from fastvae_kernels.reference.transforms import _log, _sin, _sqrt, box_muller
from fastvae_kernels.testing import NORMAL_EPSILONS, oracle_normals, philox
from tests.kernels.support import needs_compiled

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IMPLS = implementations("sample_normal")
KNOWN = [  # Random123's kat_vectors, philox4x32 10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@triton.jit
def words_kernel(out, row, quad, seed, stream):
    w0, w1, w2, w3 = philox_words(row, quad, seed, stream)
    tl.store(out, w0.to(tl.int64))
    tl.store(out + 1, w1.to(tl.int64))
    tl.store(out + 2, w2.to(tl.int64))
    tl.store(out + 3, w3.to(tl.int64))


def triton_philox(counter: tuple[int, ...], key: tuple[int, ...]) -> list[int]:
    def signed(low: int, high: int) -> int:
        value = low | high << 32
        return value - 2**64 if value >= 2**63 else value

    out = torch.empty(4, dtype=torch.int64, device=DEVICE)
    words_kernel[(1,)](out, signed(*counter[:2]), counter[2], signed(*key), counter[3])
    return out.tolist()


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert philox(counter, key) == expected
    assert philox4x32(torch.tensor(counter), key).tolist() == list(expected)
    assert triton_philox(counter, key) == list(expected)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6))
def test_philox_implementations_agree(words: list[int]) -> None:
    c0, c1, c2, c3, k0, k1 = words
    expected = list(philox((c0, c1, c2, c3), (k0, k1)))
    assert philox4x32(torch.tensor([c0, c1, c2, c3]), (k0, k1)).tolist() == expected
    assert triton_philox((c0, c1, c2, c3), (k0, k1)) == expected


def test_philox_reference_leaves_its_argument_alone() -> None:
    counter = torch.arange(12).view(3, 4)
    philox4x32(counter, (1, 2))
    assert torch.equal(counter, torch.arange(12).view(3, 4))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dim", [1, 3, 4, 10])
def test_any_split_gives_the_same_bits(impl: str, dtype: torch.dtype, dim: int) -> None:
    if impl == "triton" and dtype == torch.float64:
        pytest.skip("no such kernel")
    where = {"seed": 2**63 + 1, "dtype": dtype, "device": DEVICE, "impl": impl}
    start = 2**32 - 5
    whole = sample_normal(23, dim, start=start, stream=3, samples=3, **where)
    for cut in (1, 6, 22):
        parts = [sample_normal(cut, dim, start=start, stream=3, samples=3, **where)]
        parts.append(sample_normal(23 - cut, dim, start=start + cut, stream=3, samples=3, **where))
        assert torch.equal(torch.cat(parts, dim=1), whole)
    for k in range(3):
        assert torch.equal(sample_normal(23, dim, start=start, stream=3 + k, **where), whole[k])
    narrower = sample_normal(23, max(dim - 1, 1), start=start, stream=3, **where)
    assert torch.equal(narrower, whole[0, :, : max(dim - 1, 1)])


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_reference_chunk_size_does_not_show(chunk: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"seed": 5, "start": 2**40, "samples": 2, "dtype": dtype, "impl": "reference"}
    expected = sample_normal(7, 13, **where)
    monkeypatch.setitem(reference_sample.__globals__, "_CHUNK", chunk)
    assert torch.equal(sample_normal(7, 13, **where), expected)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("start", [0, 2**31 - 2, 2**32 - 2, 2**40, 2**63 - 4])
def test_rows_beyond_32_bits(impl: str, start: int) -> None:
    actual = sample_normal(3, 5, seed=9, start=start, device=DEVICE, impl=impl)
    exact = oracle_normals(3, 5, seed=9, start=start).to(DEVICE)
    assert ((actual.double() - exact).abs() <= NORMAL_EPSILONS * 2.0**-23 * exact.abs()).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_narrow_dtypes_are_the_float32_numbers_rounded(impl: str) -> None:
    where = {"seed": 4, "device": DEVICE, "impl": impl}
    wide = sample_normal(9, 7, **where)
    assert torch.equal(sample_normal(9, 7, dtype=torch.float16, **where), wide.to(torch.float16))
    half = sample_normal(9, 7, dtype=torch.bfloat16, **where)
    assert ((half.float() - wide).abs() <= wide.abs() * 2.0**-7).all()


@triton.jit
def transform_kernel(out, seed, LANES: tl.constexpr):
    row = tl.arange(0, LANES).to(tl.int64)
    values = tl.reshape(normals(row, row * 0, seed, 0), (LANES * 4,))
    tl.store(out + tl.arange(0, LANES * 4), values)


def test_normals_stay_within_the_stated_epsilons_over_many() -> None:
    """A quarter of a million at once, where the small-angle and near-one cases turn up."""
    lanes = 65536
    out = torch.empty(4 * lanes, device=DEVICE)
    transform_kernel[(1,)](out, 3, LANES=lanes)
    exact = sample_normal(lanes, 4, seed=3, dtype=torch.float64, impl="reference").flatten().to(DEVICE)
    error = ((out.double() - exact).abs() / exact.abs()).max().item()
    assert error <= NORMAL_EPSILONS * 2.0**-23


@pytest.mark.parametrize("words", [(0, 0), (2**32 - 1, 2**29), (2**32 - 1, 0), (0, 2**30), (0, 2**31)])
def test_transform_of_extreme_words(words: tuple[int, int]) -> None:
    """The radius of the largest and smallest uniforms, and angles at the quadrants' seams."""
    cosine, sine = box_muller(*(torch.tensor([w]) for w in words))
    u = np.float32(np.float32(words[0]) * np.float32(2.0**-32) + np.float32(2.0**-33))
    radius, angle = np.sqrt(-2 * np.log(np.float64(u))), 2 * np.pi * words[1] / 2**32
    np.testing.assert_allclose(cosine.item(), radius * np.cos(angle), rtol=1e-15, atol=1e-14)
    np.testing.assert_allclose(sine.item(), radius * np.sin(angle), rtol=1e-15, atol=1e-14)


def test_transforms_are_within_two_units_of_the_last_place() -> None:
    """Logarithm and sine are written out; of each float32 number below 1, and of angles all over, a share is tried."""
    u = torch.from_numpy(np.geomspace(2.0**-33, 1, 200_001, dtype=np.float64).astype(np.float32))
    angle = torch.linspace(-math.pi / 2, math.pi / 2, 200_001, dtype=torch.float64)
    for found, exact in (
        (_log(u), np.log(u.numpy().astype(np.longdouble))),
        (_sin(angle), np.sin(angle.numpy().astype(np.longdouble))),
    ):
        error = np.abs(found.numpy() - exact) / np.spacing(np.maximum(np.abs(exact), 2.0**-1000).astype(np.float64))
        assert error.max() < 2


def test_square_roots_are_the_nearest_numbers() -> None:
    """As integers know it; a library's may be the next but one."""
    x = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 46
    for square, root in zip(x.tolist(), _sqrt(x).tolist(), strict=True):
        below, above = Fraction(math.nextafter(root, 0)), Fraction(math.nextafter(root, 99))
        exact, middle = Fraction(square), Fraction(root)
        assert ((below + middle) / 2) ** 2 <= exact <= ((middle + above) / 2) ** 2


def test_angle_keeps_relative_accuracy_at_its_zeros() -> None:
    for zero, part in ((0, 1), (2**30, 0), (2**31, 1), (3 * 2**30, 0)):
        pair = box_muller(torch.tensor([0]), torch.tensor([zero + 1]))
        radius = np.sqrt(66 * np.log(2.0))
        np.testing.assert_allclose(abs(pair[part].item()), radius * 2 * np.pi * 2.0**-32, rtol=1e-14)


class TestStatistics:
    """Deterministic draws, so these fail or pass for good; thresholds are five standard deviations."""

    N = 200_000

    def draws(self, **where: int) -> np.ndarray:
        return sample_normal(self.N // 4, 4, seed=1, dtype=torch.float64, impl="reference", **where).numpy()

    def test_moments(self) -> None:
        z = self.draws().ravel()
        for power, (expected, variance) in {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96)}.items():
            assert abs((z**power).mean() - expected) < 5 * np.sqrt(variance / self.N)

    def test_kolmogorov_smirnov(self) -> None:
        assert stats.kstest(self.draws().ravel(), "norm").pvalue > 1e-4
        u = sample_uniform(self.N // 4, 4, seed=1, dtype=torch.float64).numpy().ravel()
        assert stats.kstest(u, "uniform").pvalue > 1e-4
        assert u.min() > 0
        assert u.max() < 1

    def test_dimensions_of_a_block_are_uncorrelated(self) -> None:
        z = self.draws()
        for transformed in (z, z**2):
            correlation = np.corrcoef(transformed.T) - np.eye(4)
            assert abs(correlation).max() < 5 / np.sqrt(self.N // 4)

    @pytest.mark.parametrize("other", [{"start": 1}, {"stream": 1}, {"start": 2**32}], ids=str)
    def test_rows_and_streams_are_uncorrelated(self, other: dict[str, int]) -> None:
        correlation = np.corrcoef(self.draws().ravel(), self.draws(**other).ravel())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(self.N)

    def test_seeds_are_uncorrelated(self) -> None:
        high = sample_normal(self.N // 4, 4, seed=1 + 2**32, impl="reference").numpy().ravel()
        assert abs(np.corrcoef(self.draws().ravel(), high)[0, 1]) < 5 / np.sqrt(self.N)

    def test_tails_reach_as_far_as_32_bits_allow(self) -> None:
        z = sample_normal(500_000, 4, seed=2, impl="reference").abs()
        assert 4.5 < z.max() < np.sqrt(66 * np.log(2.0))
        beyond = (z > 3).double().mean().item()
        assert abs(beyond - 2 * stats.norm.sf(3)) < 5 * np.sqrt(2 * stats.norm.sf(3) / 2_000_000)


def test_no_counter_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every (row, block, sample) of a call meets Philox once, in chunks that do not divide it."""
    module = reference_sample.__globals__
    seen: list[tuple[int, ...]] = []
    original = module["rounds"]

    def record(*words: torch.Tensor) -> object:
        seen.extend(zip(*(word.tolist() for word in words[:4]), strict=True))
        return original(*words)

    monkeypatch.setitem(module, "rounds", record)
    monkeypatch.setitem(module, "_CHUNK", 7)
    sample_normal(5, 9, seed=0, start=2**32 - 2, stream=6, samples=3, impl="reference")
    expected = {
        (i & 0xFFFFFFFF, i >> 32, quad, 6 + k)
        for i in range(2**32 - 2, 2**32 + 3)
        for quad in range(3)
        for k in range(3)
    }
    assert len(seen) == len(expected)
    assert set(seen) == expected


@pytest.mark.parametrize("impl", IMPLS)
def test_the_largest_words_give_uniforms_below_one(impl: str) -> None:
    """Of row 24962728, whose word is within 128 of 2**32, which float32 rounds to 1."""
    assert philox((24962728, 0, 0, 0), (0, 0))[2] >= 2**32 - 128
    u = sample_uniform(1, 4, seed=0, start=24962728, device=DEVICE, impl=impl)
    assert u[0, 2].item() == 1 - 2.0**-24


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("n", "dim", "samples"), [(0, 3, None), (3, 0, None), (3, 2, 0), (0, 0, 0)])
def test_empty(impl: str, n: int, dim: int, samples: int | None) -> None:
    shape = (n, dim) if samples is None else (samples, n, dim)
    for op in ("sample_normal", "sample_uniform"):
        draw = getattr(fastvae_kernels, op)
        assert draw(n, dim, seed=0, samples=samples, device=DEVICE, impl=impl).shape == shape


@needs_compiled
@pytest.mark.parametrize("draw", [sample_normal, sample_uniform])
@given(
    n=st.integers(0, 400),
    dim=st.integers(0, 70),
    samples=st.one_of(st.none(), st.integers(0, 3)),
    seed=st.integers(0, 2**64 - 1),
    start=st.one_of(st.integers(0, 2**60), st.integers(2**32 - 300, 2**32 + 300)),
    stream=st.integers(0, 2**32 - 4),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
)
@settings(max_examples=40)
def test_the_cpu_implementation_has_the_reference_s_bits(draw: Any, **where: Any) -> None:
    assert torch.equal(draw(**where, impl="cpu"), draw(**where, impl="reference"))


@needs_compiled
@pytest.mark.parametrize(("n", "dim"), [(3, 70_000), (9_000, 30)])
def test_threads_and_blocks_do_not_show(n: int, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"seed": 5, "start": 2**32 - 2, "stream": 7}
    expected = sample_normal(n, dim, **where, impl="reference")
    monkeypatch.setitem(sample_on_cpu.__globals__, "_NUMBERS_PER_THREAD", 1000)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(sample_normal(n, dim, **where, impl="cpu"), expected)
    finally:
        torch.set_num_threads(threads)


@needs_compiled
def test_a_forked_process_draws_with_threads_of_its_own() -> None:
    """Where PyTorch's threads, which it does not have, would never answer."""
    code = """
import os, signal, torch
from fastvae_kernels import sample_normal
torch.set_num_threads(2)
def draw(): return sample_normal(4000, 64, seed=5, impl="cpu")
torch.ones(1 << 20).add_(1)  # PyTorch's threads are there now
expected = draw()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if bytes(draw().numpy()) == bytes(expected.numpy()) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "0"


@needs_compiled
@given(seed=st.integers(0, 2**64 - 1), start=st.integers(0, 2**50), samples=st.one_of(st.none(), st.integers(0, 3)))
def test_reparameterize_on_the_cpu_has_the_reference_s_bits(seed: int, start: int, samples: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, logvar = (torch.randn(5, 6, generator=generator).to(torch.bfloat16) for _ in range(2))
    for dtype in (torch.float32, torch.bfloat16):
        where = {"seed": seed, "start": start, "samples": samples}
        found, expected = (
            reparameterize(mean.to(dtype), logvar.to(dtype), **where, impl=impl) for impl in ("cpu", "reference")
        )
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@needs_compiled
def test_a_default_device_is_not_the_numbers_device() -> None:
    """What the compiled library writes into is on the CPU, whatever PyTorch makes tensors on."""
    expected = sample_normal(3, 5, seed=1, impl="reference")
    with torch.device("meta"):
        assert torch.equal(sample_normal(3, 5, seed=1, device="cpu", impl="cpu"), expected)
