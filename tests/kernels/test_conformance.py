"""Every op, in every implementation, against a float64 oracle and the same list of demands."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastvae_kernels
from fastvae_kernels import implementations
from fastvae_kernels.cases import CASES, ROW_SHAPES
from fastvae_kernels.layout import output_format
from fastvae_kernels.testing import (
    EAGER,
    NORMAL_EPSILONS,
    assert_within,
    oracle,
    oracle_normals,
    oracle_uniforms,
    roundoff,
    widen,
)

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
NOISE = ("sample_normal", "sample_uniform", "reparameterize")
NARROW = (torch.float32, torch.bfloat16, torch.float16)
IMPLS = [(op, impl) for op in (*CASES, *NOISE) for impl in implementations(op)]
PLAIN = [(op, impl) for op, impl in IMPLS if op in CASES]
PLAIN_CASES = [(op, impl, case) for op, impl in PLAIN for case in CASES[op]]
EPS32 = 2.0**-23


def call(op: str, impl: str, arguments: dict[str, Any]) -> Any:
    return getattr(fastvae_kernels, op)(**arguments, impl=impl)


def first_case(op: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Small arguments of any op, noise included."""
    if op in CASES:
        return next(iter(CASES[op].values()))(dtype, DEVICE)
    if op == "reparameterize":
        mean = torch.linspace(-2, 2, 15, dtype=dtype, device=DEVICE).view(3, 5)
        return {"mean": mean, "logvar": mean * 0.5, "seed": 7}
    return {"n": 3, "dim": 5, "seed": 7, "dtype": dtype, "device": DEVICE}


def outputs(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def spread(x: Tensor) -> Tensor:
    """The same values with every stride doubled."""
    storage = torch.full([2 * size for size in x.shape], float("nan"), device=x.device).to(x.dtype)
    view = storage[tuple(slice(None, None, 2) for _ in x.shape)]
    view.copy_(x)
    return view


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize(("op", "impl", "case"), PLAIN_CASES)
def test_within_budget(op: str, impl: str, case: str, dtype: torch.dtype) -> None:
    arguments = CASES[op][case](dtype, DEVICE)
    actual = call(op, impl, arguments)
    if op.endswith(("_nll", "_error")):  # sums come back in float32, so eager gets the same inputs in float32
        assert actual.dtype == torch.float32
        eager = EAGER[op](**widen(arguments, torch.float32))
    else:
        assert actual.dtype == dtype
        eager = EAGER[op](**arguments)
    assert_within(actual, oracle(op, arguments), eager, interpreted=not CUDA and impl == "triton")


@pytest.mark.parametrize(("op", "case"), [(op, case) for op in CASES for case in CASES[op]])
def test_reference_is_right_in_float64(op: str, case: str) -> None:
    """Two float64 evaluations of at most 600 terms of size at most 60: 600 · 60 · 2**-53 = 4e-12."""
    arguments = CASES[op][case](torch.float64, DEVICE)
    actual = call(op, "reference", arguments)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, oracle(op, arguments), rtol=1e-13, atol=4e-12)


def reparameterize_oracle(mean: Tensor, logvar: Tensor, noise: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    mean, logvar, noise = mean.to(dtype), logvar.to(dtype), noise.to(dtype)
    z = mean + torch.exp(0.5 * logvar) * noise
    return z, -0.5 * torch.sum(1 + logvar - mean**2 - torch.exp(logvar), dim=1)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("shape", ROW_SHAPES, ids=str)
@pytest.mark.parametrize("impl", implementations("sample_normal"))
def test_noise_within_stated_epsilons(impl: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    where = {"seed": 2**64 - 5, "start": 2**32 - 2, "stream": 2**32 - 1}
    interpreted = not CUDA and impl == "triton"
    normal = fastvae_kernels.sample_normal(*shape, **where, dtype=dtype, device=DEVICE, impl=impl)
    exact = oracle_normals(*shape, **where).to(DEVICE)
    relative = NORMAL_EPSILONS * EPS32 if impl == "triton" else 0.5 * EPS32
    narrowing = roundoff(dtype, interpreted=interpreted) if dtype != torch.float32 else 0.0
    # 1.0001: the second order of two roundings; 2**-25: half a float16 subnormal.
    assert normal.dtype == dtype
    bound = exact.abs() * (relative + narrowing) * 1.0001 + (2.0**-25 if dtype == torch.float16 else 0)
    assert ((normal.double() - exact).abs() <= bound).all()
    uniform = fastvae_kernels.sample_uniform(*shape, **where, dtype=dtype, device=DEVICE, impl=impl)
    expected = oracle_uniforms(*shape, **where).to(DEVICE)
    if interpreted and dtype == torch.bfloat16:
        assert ((uniform.double() - expected).abs() <= expected * narrowing).all()
    else:
        assert torch.equal(uniform, expected.to(torch.float32).to(dtype))


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("shape", ROW_SHAPES, ids=str)
@pytest.mark.parametrize("impl", implementations("reparameterize"))
def test_reparameterize_within_budget(impl: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    mean = torch.randn(*shape, device=DEVICE).to(dtype)
    logvar = (2 * torch.randn(*shape, device=DEVICE)).to(dtype)
    where = {"seed": 11, "start": 5, "stream": 2, "samples": 2}
    z, kl = fastvae_kernels.reparameterize(mean, logvar, **where, impl=impl)
    noise = oracle_normals(*shape, **where).to(DEVICE)
    exact_z, exact_kl = reparameterize_oracle(mean, logvar, noise, torch.float64)
    eager_z, _ = reparameterize_oracle(mean, logvar, noise, dtype)
    _, eager_kl = reparameterize_oracle(mean, logvar, noise, torch.float32)
    interpreted = not CUDA and impl == "triton"
    drawn = NORMAL_EPSILONS * EPS32 * (exact_z - mean.double()).abs() if impl == "triton" else 0.0
    assert z.dtype == dtype
    assert kl.dtype == torch.float32
    assert_within(z, exact_z, eager_z, extra=drawn, interpreted=interpreted)
    assert_within(kl, exact_kl, eager_kl)


@pytest.mark.parametrize("impl", implementations("reparameterize"))
@given(
    n=st.integers(0, 9),
    dim=st.integers(0, 40),
    samples=st.one_of(st.none(), st.integers(0, 3)),
    start=st.integers(0, 2**63 - 10),
    seed=st.integers(0, 2**64 - 1),
)
def test_reparameterize_any_shape(impl: str, n: int, dim: int, samples: int | None, start: int, seed: int) -> None:
    """z is the stated function of `sample_normal` in the same implementation, to its own three roundings."""
    mean = torch.linspace(-3, 3, n * dim, device=DEVICE).view(n, dim)
    logvar = -0.7 * mean
    where = {"seed": seed, "start": start, "samples": samples, "impl": impl}
    z, kl = fastvae_kernels.reparameterize(mean, logvar, **where)
    noise = fastvae_kernels.sample_normal(n, dim, **where, device=DEVICE)
    exact_z, exact_kl = reparameterize_oracle(mean, logvar, noise, torch.float64)
    assert z.shape == exact_z.shape
    assert kl.shape == (n,)
    # exp to 2 units, its product with the noise, the sum: 4 units of the two terms' size.
    scale = mean.double().abs() + (exact_z - mean.double()).abs()
    assert ((z.double() - exact_z).abs() <= 4 * EPS32 * scale).all()
    terms = (1 + logvar.abs() + mean**2 + logvar.exp()).double().sum(1)
    assert ((kl.double() - exact_kl).abs() <= (dim + 4) * EPS32 * terms).all()


@pytest.mark.parametrize("impl", implementations("linear"))
@given(n=st.integers(0, 9), inputs=st.integers(0, 40), outputs_=st.integers(0, 20))
def test_linear_any_shape(impl: str, n: int, inputs: int, outputs_: int) -> None:
    x, weight = torch.randn(n, inputs, device=DEVICE), torch.randn(outputs_, inputs, device=DEVICE)
    bias = torch.randn(outputs_, device=DEVICE)
    y = fastvae_kernels.linear(x, weight, bias, activation="silu", impl=impl)
    exact = oracle("linear", {"x": x, "weight": weight, "bias": bias, "activation": "silu"})
    terms = x.double().abs() @ weight.double().abs().T + bias.double().abs()
    assert y.shape == (n, outputs_)
    # |silu'| <= 1.1, over a sum of `inputs` products and a bias; silu's own roundings: 4 units.
    assert ((y.double() - exact).abs() <= 1.1 * (inputs + 5) * EPS32 * terms + 2.0**-126).all()


@pytest.mark.parametrize(("op", "impl"), IMPLS)
def test_strides_do_not_matter(op: str, impl: str) -> None:
    """Tensors of any strides give the same bits as contiguous ones."""
    for case in CASES[op].values() if op in CASES else (lambda *_: first_case(op),):
        arguments = case(torch.float32, DEVICE)
        strided = {k: spread(v) if isinstance(v, Tensor) else v for k, v in arguments.items()}
        plain = {k: v.contiguous() if isinstance(v, Tensor) else v for k, v in arguments.items()}
        for a, b in zip(outputs(call(op, impl, strided)), outputs(call(op, impl, plain)), strict=True):
            assert a.is_contiguous()
            assert torch.equal(a, b)


@pytest.mark.parametrize(("op", "impl"), [pair for pair in IMPLS if "sample_" not in pair[0]])
def test_no_rows(op: str, impl: str) -> None:
    rows = {"x", "raw", "logits", "mean", "mask", "output"}
    for case in CASES[op].values() if op in CASES else (lambda *_: first_case(op),):
        arguments = case(torch.float32, DEVICE)
        names = rows | ({"logvar"} if op == "reparameterize" else set())
        if op == "gaussian_nll" and arguments["logvar"].shape == arguments["mean"].shape:
            names = rows | {"logvar"}
        full = outputs(call(op, impl, arguments))
        empty = {k: v[:0] if k in names and v is not None else v for k, v in arguments.items()}
        for result, expected in zip(outputs(call(op, impl, empty)), full, strict=True):
            assert result.shape == (0, *expected.shape[1:])
            assert result.dtype == expected.dtype


@pytest.mark.parametrize(("op", "impl"), IMPLS)
def test_inputs_are_left_alone_and_outputs_are_new(op: str, impl: str) -> None:
    for case in CASES[op].values() if op in CASES else (lambda *_: first_case(op),):
        arguments = case(torch.float32, DEVICE)
        tensors = {k: v for k, v in arguments.items() if isinstance(v, Tensor)}
        before = {k: v.clone() for k, v in tensors.items()}
        results = outputs(call(op, impl, arguments))
        for name, tensor in tensors.items():
            assert torch.equal(tensor, before[name])
            for result in results:
                assert result.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize(("op", "impl"), PLAIN)
def test_channels_last_is_kept(op: str, impl: str) -> None:
    if "channels_last" not in CASES[op]:
        pytest.skip("not an image op")
    arguments = CASES[op]["channels_last"](torch.float32, DEVICE)
    assert output_format(call(op, impl, arguments)) == torch.channels_last


def registered(op: str, impl: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The registered op behind a public one, and the arguments that the public one called it with."""
    overload = getattr(torch.ops.fastvae, op).default
    calls: list[tuple[Any, ...]] = []

    class Recorder(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is overload:
                calls.append(args)
            return func(*args, **(kwargs or {}))

    class Tracing(TorchDispatchMode):
        """Under any mode: an eager call would not go through the dispatcher."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    with Recorder(), Tracing():
        call(op, impl, first_case(op))
    return overload, calls[0]


@pytest.mark.parametrize(("op", "impl"), IMPLS)
def test_opcheck(op: str, impl: str) -> None:
    overload, arguments = registered(op, impl)
    torch.library.opcheck(overload, arguments)


@pytest.mark.parametrize(("op", "impl"), IMPLS)
def test_compiles_without_graph_breaks(op: str, impl: str) -> None:
    arguments = first_case(op)
    torch.compiler.reset()
    compiled = torch.compile(lambda: call(op, impl, arguments), fullgraph=True, backend="aot_eager")
    for a, b in zip(outputs(compiled()), outputs(call(op, impl, arguments)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("op", [*CASES, *NOISE])
def test_shape_rule_agrees_with_the_op(op: str) -> None:
    """On the meta device: the shape, dtype and strides that running the op gives."""
    if op in ("sample_normal", "sample_uniform"):
        fakes = [{**first_case(op), "device": "meta", "samples": k} for k in (None, 2)]
        reals = [{**first_case(op), "samples": k} for k in (None, 2)]
    else:
        cases = CASES[op].values() if op in CASES else (lambda *_: first_case(op),)
        reals = [case(torch.bfloat16, DEVICE) for case in cases]
        fakes = [{k: v.to("meta") if isinstance(v, Tensor) else v for k, v in r.items()} for r in reals]
    for fake, real in zip(fakes, reals, strict=True):
        for a, b in zip(outputs(call(op, "auto", fake)), outputs(call(op, "auto", real)), strict=True):
            assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())
