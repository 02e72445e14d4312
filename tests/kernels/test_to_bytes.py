"""Pixels as bytes: `to_bytes`, and the NaN that it and `conv_image` mark."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastvae_kernels import conv_image, implementations, to_bytes
from tests.kernels.support import DEVICE

# Beyond both ends, beside ties, exact ties, and what is no number.
VALUES = [-1.0, -0.0, 0.0, 1e-9, 0.3, 0.5, 127.5 / 255, 254.6 / 255, 1.0, 1.5, float("inf"), -float("inf")]
SHAPES = st.one_of(
    st.tuples(st.integers(0, 5), st.integers(0, 40)),
    st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(0, 4), st.integers(1, 6)),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
)


def defined(x: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes of x in [0, 1], in the operations that every implementation rounds alike; NaN as 0."""
    x = x.movedim(1, -1) if x.ndim == 4 else x
    whole = (x.clamp(0, 1) * 255).round()
    return whole.where(~x.isnan(), 0.0).to(torch.uint8), x.isnan().reshape(len(x), x[:1].numel()).any(1)


@pytest.mark.parametrize("impl", implementations("to_bytes"))
@given(shape=SHAPES, seed=st.integers(0, 99), nans=st.integers(0, 2), innermost=st.booleans())
def test_to_bytes(impl: str, shape: tuple[int, ...], seed: int, nans: int, innermost: bool) -> None:
    """Bit by bit; images with channels in either order, a few NaN anywhere."""
    random = torch.Generator().manual_seed(seed)
    x = torch.tensor(VALUES)[torch.randint(len(VALUES), shape, generator=random)]
    for place in torch.randint(max(x.numel(), 1), (nans if x.numel() else 0,), generator=random):
        x.view(-1)[place] = float("nan")
    x = x.to(DEVICE)
    if innermost and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    pixels, nan = to_bytes(x, impl=impl)
    expected, odd = defined(x)
    assert (pixels.dtype, nan.dtype) == (torch.uint8, torch.bool)
    assert torch.equal(pixels, expected)
    assert torch.equal(nan, odd)
    assert pixels.is_contiguous()


@pytest.mark.parametrize("impl", implementations("conv_image"))
def test_a_nan_is_marked_in_its_image(impl: str) -> None:
    """Images that share a tile, the last tile only in part full; others next to the odd one."""
    x = torch.ones(5, 2, 3, 3, device=DEVICE)
    x[3, 1, 2, 0] = float("nan")
    _, nan = conv_image(x, torch.ones(3, 2, 1, 1, device=DEVICE), impl=impl)
    assert nan.tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("impl", implementations("to_bytes"))
def test_a_nan_is_marked_in_its_row_alone(impl: str) -> None:
    """Rows apart in memory, with NaN between them."""
    memory = torch.full((4, 8), float("nan"), device=DEVICE)
    memory[:, :5] = 0.5
    memory[2, 4] = float("nan")
    assert to_bytes(memory[:, :5], impl=impl)[1].tolist() == [False, False, True, False]
