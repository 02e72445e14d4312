"""Every op, in every implementation, against a float64 oracle and the same list of demands."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fastvae_kernels import dispatch, implementations, sample_normal, sample_uniform
from fastvae_kernels.case_rows import batch_size, result_rows, take_rows
from fastvae_kernels.cases import CASES, ROW_SHAPES
from fastvae_kernels.layout import output_format
from fastvae_kernels.testing import (
    NORMAL_EPSILONS,
    assert_op_within,
    oracle,
    oracle_normals,
    oracle_uniforms,
    outputs,
    roundoff,
)
from tests.kernels.support import (
    DEVICE,
    EPS32,
    EVERY,
    IMPLS,
    NARROW,
    call,
    case_of,
    first_case,
    interpreted,
    same_bits,
)

# Ops whose reference, too, gives a row the same bits in any batch. For others it may not: a BLAS adds in an order that
# depends on a row's place, and PyTorch's SiLU, sigmoid and ELU round the last few elements in memory otherwise.
ROW_WISE = ("sample_normal", "sample_uniform", "reparameterize", "quantize_rows", "logvar")
INVARIANT = [(op, impl, case) for op, impl, case in EVERY if impl == "triton" or op in ROW_WISE]


# Ops whose results are of 8 bits whatever the operands' dtype.
NARROWING = ("quantize_rows", "conv_image", "to_bytes")


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize(("op", "impl", "case"), EVERY)
def test_within_budget(op: str, impl: str, case: str, dtype: torch.dtype) -> None:
    assert_op_within(op, impl, case_of(op, case, dtype), interpreted=interpreted(impl))


@pytest.mark.parametrize(("op", "case"), [(op, case) for op in CASES if op not in NARROWING for case in CASES[op]])
def test_reference_is_right_in_float64(op: str, case: str) -> None:
    """Two float64 evaluations of at most 600 terms of size at most 60: 600 · 60 · 2**-53 = 4e-12."""
    arguments = case_of(op, case, torch.float64)
    for actual, exact in zip(call(op, "reference", arguments), outputs(oracle(op, arguments)), strict=True):
        assert actual.dtype == torch.float64
        torch.testing.assert_close(actual, exact, rtol=1e-13, atol=4e-12)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("shape", ROW_SHAPES, ids=str)
@pytest.mark.parametrize("impl", implementations("sample_normal"))
def test_noise_within_stated_epsilons(impl: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Element by element, where a budget would grant each the error of the largest."""
    where = {"seed": 2**64 - 5, "start": 2**32 - 2, "stream": 2**32 - 1}
    normal = sample_normal(*shape, **where, dtype=dtype, device=DEVICE, impl=impl)
    exact = oracle_normals(*shape, **where).to(DEVICE)
    relative = NORMAL_EPSILONS * EPS32 if impl == "triton" else 0.5 * EPS32
    narrowing = roundoff(dtype, interpreted=interpreted(impl)) if dtype != torch.float32 else 0.0
    # 1.0001: the second order of two roundings; 2**-25: half a float16 subnormal.
    bound = exact.abs() * (relative + narrowing) * 1.0001 + (2.0**-25 if dtype == torch.float16 else 0)
    assert ((normal.double() - exact).abs() <= bound).all()
    uniform = sample_uniform(*shape, **where, dtype=dtype, device=DEVICE, impl=impl)
    expected = oracle_uniforms(*shape, **where).to(DEVICE)
    if interpreted(impl) and dtype == torch.bfloat16:
        assert ((uniform.double() - expected).abs() <= expected * narrowing).all()
    else:
        assert torch.equal(uniform, expected.to(torch.float32).to(dtype))


def spread(x: Tensor) -> Tensor:
    """The same values with every stride doubled, NaN or true between them."""
    storage = torch.full([2 * size for size in x.shape], float("nan"), device=x.device).to(x.dtype)
    view = storage[tuple(slice(None, None, 2) for _ in x.shape)]
    view.copy_(x)
    return view


def by_columns(x: Tensor) -> Tensor:
    """The same values, a matrix stored column by column."""
    return x.T.contiguous().T if x.dim() == 2 else x.contiguous()


def called_with_care(op: str, impl: str, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
    """The op's results, which lie in memory of their own; its inputs are as they were."""
    tensors = [v for v in arguments.values() if isinstance(v, Tensor)]
    before = [v.clone() for v in tensors]
    results = call(op, impl, arguments)
    assert all(same_bits((tensor,), (copy,)) for tensor, copy in zip(tensors, before, strict=True))
    inputs, new = ([t.untyped_storage().data_ptr() for t in group] for group in (tensors, results))
    assert len({*new}) == len(results)
    assert not {*inputs} & {*new}
    return results


@pytest.mark.parametrize(("op", "impl", "case"), EVERY)
def test_strides_do_not_matter(op: str, impl: str, case: str) -> None:
    """Tensors of any strides give the same bits as contiguous ones.

    Matrices by columns are too much to ask of PyTorch's activations, which round the last few in memory otherwise; of
    the others, one case of each op.
    """
    arguments = case_of(op, case)
    plain = call(op, impl, {k: v.contiguous() if isinstance(v, Tensor) else v for k, v in arguments.items()})
    columns = case == next(iter(CASES[op])) and (op, impl) != ("affine", "reference")
    for layout in [spread, by_columns] if columns else [spread]:
        results = called_with_care(
            op, impl, {k: layout(v) if isinstance(v, Tensor) else v for k, v in arguments.items()}
        )
        assert all(result.is_contiguous() for result in results)
        assert same_bits(results, plain)


@pytest.mark.parametrize(("op", "impl", "case"), INVARIANT)
def test_a_row_has_the_same_bits_in_any_batch(op: str, impl: str, case: str) -> None:
    """Alone, and in another batch that starts elsewhere."""
    arguments = case_of(op, case)
    full, n = call(op, impl, arguments), batch_size(op, arguments)
    for rows in (slice(n - 1, n), slice(n // 3, n)):
        some = call(op, impl, take_rows(op, arguments, rows))
        assert same_bits(some, tuple(result_rows(arguments, n, result, rows) for result in full))


@pytest.mark.parametrize(("op", "impl"), IMPLS)
def test_no_rows(op: str, impl: str) -> None:
    arguments, none = first_case(op), slice(0, 0)
    n, full = batch_size(op, arguments), call(op, impl, arguments)
    empty = call(op, impl, take_rows(op, arguments, none))
    for result, whole in zip(empty, full, strict=True):
        assert result.shape == result_rows(arguments, n, whole, none).shape
        assert result.dtype == whole.dtype


@pytest.mark.parametrize(("op", "impl"), [pair for pair in IMPLS if "channels_last" in CASES[pair[0]]])
def test_channels_last_is_kept(op: str, impl: str) -> None:
    (result,) = call(op, impl, case_of(op, "channels_last"))
    assert output_format(result) == torch.channels_last


def test_every_op_has_cases() -> None:
    assert dispatch._IMPLEMENTATIONS.keys() == CASES.keys()
