"""What the tests of every op share: where they run, what there is to test, and how to call it."""

from typing import Any

import torch
from torch import Tensor

import fastvae_kernels
from fastvae_kernels import implementations
from fastvae_kernels.cases import CASES
from fastvae_kernels.testing import outputs

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
NARROW = (torch.float32, torch.bfloat16, torch.float16)
IMPLS = [(op, impl) for op in CASES for impl in implementations(op)]
EVERY = [(op, impl, case) for op, impl in IMPLS for case in CASES[op]]
EPS32 = 2.0**-23


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
