"""The pieces of a group norm: alone, together, over bands of an image, and what memory they touch."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fastvae_kernels import channel_statistics, group_norm, implementations, norm_affine, norm_apply
from fastvae_kernels.triton import channel_statistics as statistics_module
from fastvae_kernels.triton import norm_affine as affine_module
from fastvae_kernels.triton import norm_apply as apply_module
from fastvae_kernels.tuning import NormConfig, shipped_configs
from tests.kernels.support import CUDA, DEVICE, EPS32, assert_guards_stand, guarded
from tests.kernels.test_images import image, normalised

CONFIG = shipped_configs("group_norm")["default"]
assert isinstance(CONFIG, NormConfig)
SMALL = NormConfig(32, 4, 4, 2, 8, 4, 128)
IMPLS = implementations("channel_statistics")


def exact_moments(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Mean and squared deviations' sum, [n, blocks, c], in float64."""
    parts = [part.double() for part in x.flatten(2).split(block, 2)]
    var_mean = [torch.var_mean(part, 2, correction=0) for part in parts]
    means = torch.stack([mean for _, mean in var_mean], 1)
    m2 = torch.stack([var * part.shape[2] for (var, _), part in zip(var_mean, parts, strict=True)], 1)
    return means, m2


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("block", [1, 8, 18, 100])
def test_statistics_of_a_large_mean(block: int, layout: str, impl: str) -> None:
    """Mean and rest together are as good as if x were centred: off by e = (k + 4) units of the spread for k pixels.

    So is each deviation d, a square by 2 |d| e + e², and Σ|d| is at most √(k m2); sums round (k + 4) times.
    """
    x = image(1, 5, 3, 6, layout=layout) * 1e-2 + 1e3
    out = channel_statistics(x, block=block, rest=True, impl=impl)
    mean, m2 = exact_moments(x, block)
    k = min(block, 18)
    off = (k + 4) * EPS32 * (x.max() - x.min()).double()
    assert ((out[..., 0].double() + out[..., 2] - mean).abs() <= off).all()
    assert ((out[..., 1].double() - m2).abs() <= 2 * off * (k * m2).sqrt() + k * off**2 + (k + 4) * EPS32 * m2).all()
    two = channel_statistics(x, block=block, impl=impl)
    assert torch.equal(two, out[..., :2])


def test_the_same_bits_in_either_layout_and_wherever_rows_lie() -> None:
    for pixels, block in (((8, 8), 32), ((3, 7), 12)):
        x = image(2, 6, *pixels)
        plain = channel_statistics(x, block=block, rest=True, impl="triton")
        wide = torch.full((4, 6, *pixels), float("inf"), device=DEVICE)
        wide[1::2] = x
        for other in (x.contiguous(memory_format=torch.channels_last), wide[1::2], x.transpose(2, 3).contiguous().mT):
            assert torch.equal(channel_statistics(other, block=block, rest=True, impl="triton"), plain)


@pytest.mark.parametrize("impl", IMPLS)
def test_statistics_by_hand(impl: str) -> None:
    """Pixels 1, 3, 8 and 10, 10, 10 in blocks of two and one."""
    x = torch.tensor([[1.0, 3, 8], [10, 10, 10]], device=DEVICE).view(1, 2, 1, 3)
    out = channel_statistics(x, block=2, impl=impl)
    assert out[0].tolist() == [[[2, 2], [10, 0]], [[8, 0], [10, 0]]]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("given", ["block", "counts"])
def test_merging_by_hand(impl: str, given: str) -> None:
    """That image in one group: 1, 3, 8, 10, 10, 10, of mean 7 and variance 80 / 6; then each channel alone."""
    statistics = torch.tensor([[[2.0, 2], [10, 0]], [[8, 0], [10, 0]]], device=DEVICE)[None]
    how = {"block": 2} if given == "block" else {"counts": torch.tensor([2, 1], device=DEVICE)}
    weight, bias = torch.tensor([[4.0, -2], [0.5, 7]], device=DEVICE)
    out = norm_affine(statistics, weight, bias, pixels=3, groups=1, eps=8 / 3, impl=impl, **how)
    torch.testing.assert_close(out[0], out.new_tensor([[7, 7], [1, -0.5], [0.5, 7]]))
    out = norm_affine(statistics, pixels=3, groups=2, eps=1.0, impl=impl, **how)
    torch.testing.assert_close(out[0], out.new_tensor([[4, 10], [(29 / 3) ** -0.5, 1], [0, 0]]), atol=1e-6, rtol=1e-6)


def in_pieces(
    x: Tensor, weight: Tensor, bias: Tensor, bands: list[int], block: int, impl: str, **norm: float
) -> Tensor:
    """A group norm over bands of so many rows of pixels: statistics of each, merged, applied to each."""
    parts = x.split(bands, 2)
    found = [channel_statistics(part, block=block, rest=True, impl=impl) for part in parts]
    counts = [
        min(block, part.shape[2] * part.shape[3] - first)
        for part in parts
        for first in range(0, part.shape[2] * part.shape[3], block)
    ]
    affine = norm_affine(
        torch.cat(found, 1),
        weight,
        bias,
        pixels=x.shape[2] * x.shape[3],
        counts=torch.tensor(counts, device=DEVICE),
        impl=impl,
        **norm,
    )
    return torch.cat([norm_apply(part, affine, impl=impl) for part in parts], 2)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("bands", "block"), [([8], 64), ([3, 5], 7), ([1, 1, 6], 16)], ids=str)
def test_bands_give_what_the_whole_gives(bands: list[int], block: int, impl: str) -> None:
    x = image(2, 6, 8, 5, layout="channels_last") * 1e-2 + 1e3
    weight, bias = torch.randn(2, 6, device=DEVICE)
    exact, bound = normalised(x, weight, bias, 2, 1e-6)
    y = in_pieces(x, weight, bias, bands, block, impl, groups=2, eps=1e-6)
    assert ((y.double() - exact).abs() <= bound).all()
    assert bound.max() < 1e-3


@pytest.mark.parametrize(("width", "height"), [(1, 1), (31, 29), (256, 256), (2048, 2048)])
def test_blocks_fill_a_device_and_merge_in_a_moment(width: int, height: int) -> None:
    block = apply_module.block_of(width * height, CONFIG)
    assert -(-width * height // block) <= CONFIG.max_blocks
    assert block == CONFIG.min_block or 2 * -(-width * height // block) > CONFIG.max_blocks


@pytest.mark.parametrize("config", [SMALL, CONFIG], ids=["small", "default"])
@pytest.mark.parametrize("last", [True, False])
def test_outputs_are_written_and_nothing_else(last: bool, config: NormConfig) -> None:
    """Of every tile size, with infinities around what is read."""
    n, c, h, w, block = 2, 5, 3, 7, 8
    wide = torch.full((n * c * h * w + 64,), float("inf"), device=DEVICE)
    flat = wide[32:-32].view(n, h, w, c).permute(0, 3, 1, 2) if last else wide[32:-32].view(n, c, h, w)
    x = flat.copy_(torch.randn(n, c, h, w, device=DEVICE) + 3)
    statistics, memory = guarded(n, 3, c, 3)
    statistics_module.launch(x, statistics, block, channels_last=last, config=config)
    assert_guards_stand(memory)
    affine, memory = guarded(n, 3, c)
    affine_module.launch(statistics, None, None, None, affine, h * w, block, 5, 0.0, config=config)
    assert_guards_stand(memory)
    y, memory = guarded(n, h, w, c) if last else guarded(n, c, h, w)
    y = y.permute(0, 3, 1, 2) if last else y
    apply_module.launch(x, affine, y, "identity", None, config=config)
    assert_guards_stand(memory)
    exact, bound = normalised(x, torch.ones(c, device=DEVICE), torch.zeros(c, device=DEVICE), 5, 0.0)
    assert ((y.double() - exact).abs() <= bound).all()


def test_rows_far_apart() -> None:
    """Two images whose distance does not fit int32: 4 GiB that no machine backs until they are touched."""
    if CUDA:
        memory = torch.zeros(2**31 + 256, dtype=torch.float16, device=DEVICE)
    else:
        memory = torch.from_numpy(np.zeros(2**31 + 256, dtype=np.float16))
    far = memory.as_strided((2, 4, 5, 3), (2**31 + 8, 15, 3, 1))
    near = far.copy_(image(2, 4, 5, 3)).contiguous()
    assert torch.equal(group_norm(far, groups=2, impl="triton"), group_norm(near, groups=2, impl="triton"))


@pytest.mark.parametrize("impl", IMPLS)
def test_no_pixels_have_no_blocks(impl: str) -> None:
    assert channel_statistics(torch.zeros(2, 3, 0, 4, device=DEVICE), block=4, impl=impl).shape == (2, 0, 3, 2)


def test_rows_do_not_meet() -> None:
    """NaN in a row, and a value nobody else has, change that row's bits alone."""
    x = image(3, 2, 5, 4)
    clean = group_norm(x, groups=1, impl="triton")
    for row, value in ((0, float("nan")), (2, 1e10)):
        other = x.clone()
        other[row, 1, 2, 3] = value
        y = group_norm(other, groups=1, impl="triton")
        assert not torch.equal(y[row], clean[row])
        kept = [each for each in range(3) if each != row]
        assert torch.equal(y[kept], clean[kept])
