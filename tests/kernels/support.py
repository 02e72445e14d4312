"""What the tests of every op share: where they run, what there is to test, and how to call it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import fastvae_kernels
from fastvae_kernels import implementations
from fastvae_kernels.cases import CASES
from fastvae_kernels.cpu import has_wide_products, why_not
from fastvae_kernels.cpu.library import library
from fastvae_kernels.testing import outputs

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
NARROW = (torch.float32, torch.bfloat16, torch.float16)
IMPLS = [(op, impl) for op in CASES for impl in implementations(op)]
EVERY = [(op, impl, case) for op, impl in IMPLS for case in CASES[op]]
EPS32 = 2.0**-23
needs_compiled = pytest.mark.skipif(why_not() is not None, reason=f"the kernels for CPUs: {why_not()}")


def interpreted(impl: str) -> bool:
    return impl == "triton" and not CUDA


def call(op: str, impl: str, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
    return outputs(getattr(fastvae_kernels, op)(**arguments, impl=impl))


def case_of(op: str, case: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return CASES[op][case](dtype, DEVICE)


def first_case(op: str) -> dict[str, Any]:
    return case_of(op, next(iter(CASES[op])))


def same_bits(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


SENTINEL = -123.0  # exact in every floating dtype, e4m3 excepted
PAD = 64


def guarded(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A contiguous NaN tensor in the middle of sentinels, and all of that memory."""
    size = math.prod(shape)
    memory = torch.full((size + 2 * PAD,), SENTINEL, device=DEVICE).to(dtype)
    memory[PAD : PAD + size] = float("nan")
    return memory[PAD : PAD + size].view(shape), memory


def assert_guards_stand(memory: Tensor) -> None:
    sentinel = torch.full((PAD,), SENTINEL, device=DEVICE).to(memory.dtype).float()
    assert torch.equal(memory[:PAD].float(), sentinel)
    assert torch.equal(memory[-PAD:].float(), sentinel)


def framed(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers that lie in the middle of infinities, so that a read which strays shows."""
    wide = torch.full((rows + 2, columns + 10), float("inf"), device=DEVICE)
    wide[1:-1, 5:-5] = torch.randn(rows, columns, device=DEVICE)
    return wide.to(dtype)[1:-1, 5:-5]


ANY, AVX2, AVX512 = 1, 2, 3  # as in source/products.c


@contextmanager
def vectors(kind: int) -> Iterator[None]:
    """Compiled products with such vectors, or with this processor's best where it does not have them."""
    library().fastvae_use_vectors(kind)
    try:
        yield
    finally:
        library().fastvae_use_vectors(AVX512)


def of_each_vectors(run: Callable[[], Sequence[NDArray[Any]]]) -> list[tuple[int, Sequence[NDArray[Any]]]]:
    """What `run` gives under each kind of vectors; of those with fused multiply-adds the same bits."""
    found = {}
    for kind in (ANY, AVX2, AVX512):
        with vectors(kind):
            found[kind] = run()
    for one, other in zip(found[AVX2], found[AVX512], strict=True):
        np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))
    return [(kind, found[kind]) for kind in (ANY, AVX512)]


def product_roundings(kind: int, terms: int) -> int:
    """Roundings of a compiled sum of so many products and a bias, in units of 2**-24 of the sum of their sizes.

    The bias comes first and then term by term: each multiply-add rounds a partial sum, which is no larger than that of
    the sizes, and without fused ones the product too. One more for what is of second order, up to thousands of terms.
    """
    fused = kind != ANY and has_wide_products()
    return (1 if fused else 2) * terms + 1
