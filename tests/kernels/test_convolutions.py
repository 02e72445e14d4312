"""The convolutions' kernel: any geometry within bounds derived by hand, any tile, what lies around memory, statistics.

A bound allows 2**-23, two roundings to nearest, for every operation; sums may run in any order.
"""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastvae_kernels import (
    UnavailableError,
    conv2d,
    conv2d_statistics,
    conv_image,
    conv_score,
    conv_transpose2d,
    implementations,
)
from fastvae_kernels.reference.channel_statistics import channel_statistics
from fastvae_kernels.tiling import GemmConfig
from fastvae_kernels.triton import conv2d as module
from fastvae_kernels.triton import conv_score as score_module
from fastvae_kernels.triton.window import conv_axis, transposed_axis
from tests.kernels.support import CUDA, DEVICE, EPS32, NARROW, assert_guards_stand, guarded

SIDES = st.tuples(st.integers(1, 6), st.integers(1, 6))
SMALL = st.tuples(st.integers(1, 3), st.integers(1, 3))
KERNELS = st.tuples(st.integers(1, 4), st.integers(1, 4))
PADDING = st.tuples(*4 * [st.integers(0, 3)])
CHANNELS = st.sampled_from((1, 3, 8, 16))
# Tiles smaller than every image below, of unlike sides; a step within a tap of 16 channels, and over several of 8.
CONFIGS = [
    GemmConfig(16, 16, 16, 4, 2, group_rows=2),
    GemmConfig(32, 16, 32, 4, 2, parts=2),
    GemmConfig(128, 32, 16, 4, 2, group_rows=1),
]


def normal(*shape: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    return torch.randn(shape, device=DEVICE).contiguous(memory_format=layout)


LAYOUT = st.sampled_from((torch.contiguous_format, torch.channels_last))


def assert_convolved(y: Tensor, exact: Tensor, terms: Tensor, count: int, residual: Tensor | None) -> None:
    """relu: every term meets at most its product and `count` sums, then a bias and a residual."""
    bound = (count + 3) * EPS32 * terms + 2.0**-126
    if residual is not None:
        exact, bound = exact + residual, bound + EPS32 * residual.abs()
    assert y.shape == exact.shape
    assert ((y.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("impl", implementations("conv2d"))
@settings(max_examples=10)
@given(
    n=st.integers(0, 3),
    groups=st.integers(1, 2),
    channels=CHANNELS,
    outputs=st.integers(1, 5),
    size=SIDES,
    kernel=KERNELS,
    stride=SMALL,
    dilation=SMALL,
    padding=PADDING,
    layout=LAYOUT,
    added=st.booleans(),
)
def test_conv2d(
    impl: str,
    n: int,
    groups: int,
    channels: int,
    outputs: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
    layout: torch.memory_format,
    added: bool,
) -> None:
    top, left, bottom, right = padding
    assume(size[0] + top + bottom > dilation[0] * (kernel[0] - 1))
    assume(size[1] + left + right > dilation[1] * (kernel[1] - 1))
    x = normal(n, groups * channels, *size, layout=layout)
    weight, bias = normal(groups * outputs, channels, *kernel, layout=layout), normal(groups * outputs)
    wide = F.pad(x.double(), (left, right, top, bottom)), weight.double(), bias.double()
    rest = stride, 0, dilation, groups
    exact, terms = F.conv2d(*wide, *rest).relu(), F.conv2d(*(t.abs() for t in wide), *rest)
    residual = normal(*exact.shape) if added else None
    window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    y = conv2d(x, weight, bias, residual=residual, activation="relu", **window, impl=impl)
    assert_convolved(y, exact, terms, channels * kernel[0] * kernel[1], residual)


@pytest.mark.parametrize("impl", implementations("conv_transpose2d"))
@settings(max_examples=8)
@given(
    n=st.integers(0, 2),
    groups=st.integers(1, 2),
    channels=CHANNELS,
    outputs=st.integers(1, 5),
    size=SIDES,
    kernel=KERNELS,
    stride=SMALL,
    dilation=SMALL,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    extra=st.booleans(),
    layout=LAYOUT,
)
def test_conv_transpose2d(
    impl: str,
    n: int,
    groups: int,
    channels: int,
    outputs: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    extra: bool,
    layout: torch.memory_format,
) -> None:
    """Strides and dilations with and without a common divisor, kernels smaller than either."""
    more = tuple(max(pair) - 1 if extra else 0 for pair in zip(stride, dilation, strict=True))
    last = [(size[i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + more[i] for i in (0, 1)]
    assume(min(last) >= 0)
    x = normal(n, groups * channels, *size, layout=layout)
    weight, bias = normal(groups * channels, outputs, *kernel), normal(groups * outputs)
    wide, rest = (x.double(), weight.double(), bias.double()), (stride, padding, more, groups, dilation)
    exact = F.conv_transpose2d(*wide, *rest).relu()
    terms = F.conv_transpose2d(*(t.abs() for t in wide), *rest)
    window = {"stride": stride, "padding": padding, "output_padding": more, "dilation": dilation, "groups": groups}
    y = conv_transpose2d(x, weight, bias, activation="relu", **window, impl=impl)
    assert_convolved(y, exact, terms, channels * kernel[0] * kernel[1], None)


def launched(
    window: Any, image: tuple[int, int], size: tuple[int, int], weight: Tensor, config: GemmConfig, block: int = 0
) -> Any:
    """A launch into guarded memory, of images amid NaN: x, bias, residual, the output [n, c, h, w] and statistics."""
    n, outputs, channels = 2, weight.shape[0], weight.shape[3]
    x, x_memory = guarded(n, *image, channels)
    x.copy_(normal(n, *image, channels))
    x_memory[x_memory == -123.0] = float("nan")
    bias, residual = normal(outputs), normal(n, *size, outputs)
    out, memory = guarded(n, *size, outputs)
    statistics, further = guarded(n, -(-size[0] * size[1] // max(block, 1)), outputs, 2)
    module.launch(
        x, weight, bias, residual, out, statistics if block else None, window, 1, "relu", None,
        block=block, config=config,
    )  # fmt: skip
    assert_guards_stand(memory)
    assert_guards_stand(further)
    images = [t.permute(0, 3, 1, 2) for t in (x, residual, out)]
    return images[0], bias, images[1], images[2], statistics


@pytest.mark.parametrize("block", [0, 4, 16])
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: str(c.tile))
def test_conv2d_in_any_tile(config: GemmConfig, channels: int, block: int) -> None:
    """Zeros on three sides only; with a block tiles end with each image, else they go on into the next."""
    weight = normal(20, 3, 2, channels)
    window = conv_axis(3, 1, 1, 1), conv_axis(2, 2, 1, 2)
    x, bias, residual, out, statistics = launched(window, (5, 7), (4, 5), weight, config, block)
    wide = F.pad(x.double(), (2, 1, 1, 0)), weight.permute(0, 3, 1, 2).double(), bias.double()
    terms = F.conv2d(*(t.abs() for t in wide), (1, 2))
    assert_convolved(out, F.conv2d(*wide, (1, 2)).relu(), terms, 6 * channels, residual)
    if block:
        assert_statistics(out, statistics, block)


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("config", CONFIGS[:2], ids=lambda c: str(c.tile))
def test_conv_transpose2d_in_any_tile(config: GemmConfig, channels: int) -> None:
    """Two phases down, of two rows and one; three across, one of them without a tap."""
    weight = normal(17, 4, 2, channels)
    window = transposed_axis(4, 2, 1, 1), transposed_axis(2, 3, 2, 1)
    x, bias, residual, out, _ = launched(window, (2, 3), (3, 7), weight, config)
    wide = x.double(), weight.permute(3, 0, 1, 2).double(), bias.double()
    rest = (2, 3), (1, 1), (0, 0), 1, (1, 2)
    exact, terms = (F.conv_transpose2d(*parts, *rest)[:, :, :3] for parts in (wide, [t.abs() for t in wide]))
    assert_convolved(out, exact.relu(), terms, 8 * channels, residual)


def assert_statistics(y: Tensor, statistics: Tensor, block: int) -> None:
    """A mean of k: its k sums and a quotient of numbers of size |y|. d is off by that, E, and its own rounding, and
    the sum of d² by twice d's error times |d|, that error squared, and k + 1 operations.
    """
    assert statistics.shape == (y.shape[0], -(-y.shape[2] * y.shape[3] // block), y.shape[1], 2)
    for index, part in enumerate(y.double().flatten(2).split(block, 2)):
        k, mean = part.shape[2], part.mean(2, keepdim=True)
        d, error = (part - mean).abs(), (k + 1) * EPS32 * part.abs().mean(2, keepdim=True)
        of_d = error + EPS32 * d
        bound = (2 * d * of_d + of_d**2 + (k + 1) * EPS32 * d**2).sum(2)
        assert ((statistics[:, index, :, 0] - mean[:, :, 0]).abs() <= error[:, :, 0]).all()
        assert ((statistics[:, index, :, 1] - (d**2).sum(2)).abs() <= bound + 2.0**-126).all()


@pytest.mark.parametrize("window", [{"stride": 2}, {"padding": (1, 0, 1, 0)}, {"padding": (0, 1, 0, 0)}], ids=str)
def test_windows_of_one_pixel_are_a_product_only_where_every_pixel_has_one(window: dict[str, Any]) -> None:
    x, weight, bias = normal(2, 3, 2, 3), normal(4, 3, 1, 1), normal(4)
    top, left, bottom, right = window.get("padding", (0, 0, 0, 0))
    wide = F.pad(x.double(), (left, right, top, bottom)), weight.double(), bias.double()
    exact, terms = (F.conv2d(*t, window.get("stride", 1)) for t in (wide, [each.abs() for each in wide]))
    y = conv2d(x, weight, bias, activation="relu", **window, impl="triton")
    assert_convolved(y, exact.relu(), terms, 3, None)


def test_an_infinity_stays_in_the_windows_that_see_it() -> None:
    """Three channels: the step after a window's last tap would read the row of pixels below it."""
    x, weight = normal(1, 3, 5, 4), normal(2, 3, 2, 2)
    clean = conv2d(x, weight, impl="triton")
    x[0, 0, 3, 2] = float("inf")
    y = conv2d(x, weight, impl="triton")
    assert not y[:, :, 2:, 1:].isfinite().any()
    y[:, :, 2:, 1:] = clean[:, :, 2:, 1:]
    assert torch.equal(y, clean)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("impl", implementations("conv2d_statistics"))
def test_statistics_are_those_of_what_is_stored(impl: str, dtype: torch.dtype) -> None:
    """Of a bias of 1000 as well, where 16 bits keep no more than a few of the deviations' steps."""
    x, weight = normal(2, 5, 7, 6).to(dtype), normal(9, 5, 3, 3).to(dtype)
    y, statistics = conv2d_statistics(x, weight, torch.full((9,), 1000.0, device=DEVICE).to(dtype), block=8, impl=impl)
    assert statistics.dtype == torch.float32
    assert statistics.is_contiguous()
    assert_statistics(y, statistics, 8)
    if impl == "reference":
        assert torch.equal(statistics, channel_statistics(y, 8, False))


def test_a_block_that_no_tile_holds_is_refused_by_name_and_left_to_the_reference_by_auto() -> None:
    x, weight = normal(1, 2, 4, 4), normal(3, 2, 1, 1)
    for block in (3, 256):
        with pytest.raises(UnavailableError, match=f"block must be a power of two of at most 128; found {block}"):
            conv2d_statistics(x, weight, block=block, impl="triton")
        assert_statistics(*conv2d_statistics(x, weight, block=block), block)


def test_images_too_large_to_count_in_32_bits_are_refused() -> None:
    with pytest.raises(UnavailableError, match=r"at most 2147483136 pixels an image; found \(65536, 32768\)"):
        module._empty(torch.empty(1, 1, 1, 1, device="meta"), 1, (65536, 32768), torch.float32)


def test_operands_with_channels_innermost_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = module.launch
    monkeypatch.setattr(
        module, "launch", lambda *args, **rest: (seen.extend(t.data_ptr() for t in args[:5]), real(*args, **rest))
    )
    last = torch.channels_last
    x, weight = normal(2, 4, 3, 3, layout=last), normal(5, 4, 3, 3, layout=last)
    bias, residual = normal(5), normal(2, 5, 3, 3, layout=last)
    y = conv2d(x, weight, bias, residual=residual, padding=1, impl="triton")
    assert seen == [t.data_ptr() for t in (x, weight, bias, residual, y)]
    seen.clear()
    weight = normal(5, 4, 2, 2, layout=last).transpose(0, 1)
    residual = normal(2, 5, 6, 6, layout=last)
    y = conv_transpose2d(x, weight, bias, residual=residual, stride=2, impl="triton")
    assert seen == [t.data_ptr() for t in (x, weight, bias, residual, y)]


def test_images_in_sheets_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two images a sheet, the last of one."""
    x, weight, window = normal(3, 2, 3, 3), normal(4, 2, 2, 3), (conv_axis(2, 1, 1, 1), conv_axis(2, 1, 1, 1))
    found = []
    for rows in (2**30, 2 * 12 + 3):
        monkeypatch.setattr(module, "_SHEET_ROWS", rows)
        out, memory = guarded(3, 3, 4, 4)
        module.launch(x, weight, None, None, out, None, window, 1, "identity", None, config=CONFIGS[0])
        assert_guards_stand(memory)
        found.append(out)
    assert torch.equal(*found)


def test_upsampling_and_a_convolution_are_one_transposed_convolution() -> None:
    """Of the kernel's rows a, b and c an even output sees a and b + c, an odd one a + b and c."""
    x, weight = normal(1, 3, 3, 4), normal(2, 3, 3, 3)
    taps = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], device=DEVICE)
    kernel = torch.einsum("ka,lb,oiab->iokl", taps, taps, weight)
    y = conv_transpose2d(x, kernel, stride=2, padding=1, impl="triton")
    exact = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest").double(), weight.double(), padding=1)
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=1e-5)


@pytest.fixture
def far_image() -> Tensor:
    """An image whose last pixels' offsets do not fit int32: 4 GiB of zeros that no machine backs until touched."""
    size = (2**15 + 1) * 2**13 * 8
    memory = torch.zeros(size, dtype=torch.float16, device=DEVICE) if CUDA else torch.from_numpy(np.zeros(size, "f2"))
    return memory.view(1, 2**15 + 1, 2**13, 8).permute(0, 3, 1, 2)


def test_offsets_beyond_32_bits(far_image: Tensor) -> None:
    far_image[..., 2**15, 2**13 - 1] = torch.arange(8, device=DEVICE).half()
    weight = normal(3, 8, 2, 1).half().contiguous(memory_format=torch.channels_last)
    y = conv2d(far_image, weight, stride=(2**15, 2**13 - 1), padding=(0, 0, 1, 0), impl="triton")
    exact = weight[:, :, 0, 0].float() @ torch.arange(8.0, device=DEVICE)
    assert y.shape == (1, 3, 2, 2)
    # Rounded to float16 once; eight terms of at most 7 |weight| are summed in float32.
    torch.testing.assert_close(y[0, :, 1, 1].float(), exact, rtol=2.0**-11, atol=8 * 28 * 4 * 2.0**-24)
    assert not y[0, :, 0].any()


@pytest.mark.parametrize("impl", implementations("conv_image"))
def test_bytes_stay_in_range_and_round_to_nearest(impl: str) -> None:
    """Levels around both ends and the middle of the range, none of them near a tie; infinities and NaN."""
    levels = torch.tensor([-300.0, -1, -0.3, 0, 0.3, 0.7, 126.4, 126.6, 127, 254.3, 254.7, 255, 255.3, 900])
    odd = torch.tensor([float("inf"), -float("inf"), float("nan")])
    x = torch.cat([levels / 127.5 - 1, odd]).to(DEVICE).view(1, 1, 1, -1)
    y, nan = conv_image(x, torch.ones(1, 1, 1, 1, device=DEVICE), impl=impl)
    assert nan.tolist() == [True]
    assert (y.shape, y.dtype) == ((1, 1, x.shape[3], 1), torch.uint8)
    assert y.flatten().tolist() == [0, 0, 0, 0, 0, 1, 126, 127, 127, 254, 255, 255, 255, 255, 255, 0, 0]


@pytest.mark.parametrize("impl", implementations("conv_image"))
def test_bytes_of_ties_are_even(impl: str) -> None:
    """Of levels k + ½ those that a float32 v has exactly as 255 v."""
    ties = torch.arange(0.5, 8)
    x = (ties / 255).to(DEVICE)
    exact = (x.cpu() * 255 == ties).nonzero().flatten()
    assert len(exact) >= 4
    y, _ = conv_image(x.view(1, 1, 1, -1), torch.ones(1, 1, 1, 1, device=DEVICE), scale=1.0, shift=0.0, impl=impl)
    assert torch.equal(y.cpu().flatten()[exact].float(), ties[exact].round())


@pytest.mark.parametrize("impl", implementations("conv_score"))
def test_conv_score_is_the_score_of_conv2d(impl: str) -> None:
    """Squared errors e of d = data - p: 2 |d| e + e² each, and their sum; images of several tiles and samples."""
    x, weight, bias = normal(4, 3, 13, 12), normal(5, 3, 3, 3), normal(5)
    data, mask = normal(2, 5, 13, 12), torch.rand(2, 5, 13, 12, device=DEVICE) < 0.7
    settings_ = {"likelihood": "squared_error", "padding": 1, "activation": "relu", "mask": mask}
    score = conv_score(x, weight, bias, data, **settings_, impl=impl)
    wide = x.double(), weight.double(), bias.double()
    p, terms = F.conv2d(*wide, padding=1).relu(), F.conv2d(*(t.abs() for t in wide), padding=1)
    d, error = (data.double().repeat(2, 1, 1, 1) - p).abs(), 30 * EPS32 * terms
    counts = mask.repeat(2, 1, 1, 1)
    exact = (d**2 * counts).flatten(1).sum(1)
    bound = ((2 * d * error + error**2 + EPS32 * d**2) * counts).flatten(1).sum(1) + 800 * EPS32 * exact
    assert score.shape == (4,)
    assert ((score.double() - exact).abs() <= bound).all()


def test_numbers_of_tiles_are_added_in_one_order() -> None:
    """More than one program step's, and a part of one."""
    tiles = torch.rand(3, 2500, device=DEVICE)
    total = score_module.add_tiles(tiles)
    assert ((total.double() - tiles.double().sum(1)).abs() <= 2500 * EPS32 * total).all()
    assert torch.equal(score_module.add_tiles(tiles[2:]), total[2:])
