"""Convolutions of 8-bit operands, and the norms that make them: exact where nothing is rounded."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastvae_kernels import UnavailableError, conv2d, conv2d_statistics, conv_image, implementations, norm_apply
from fastvae_kernels.parts import PARTS
from fastvae_kernels.reference.channel_statistics import channel_statistics
from fastvae_kernels.tiling import GemmConfig, best_conv_tile, conv_config, shipped_tiles
from fastvae_kernels.triton import conv2d as module
from tests.kernels.support import DEVICE

E4M3 = torch.float8_e4m3fn
# Tiles smaller than the images, of which the second is finished in halves.
CONFIGS = [GemmConfig(16, 16, 32, 4, 2, group_rows=2), GemmConfig(32, 32, 32, 4, 2, parts=2)]


def whole(*shape: int, most: int = 8) -> Tensor:
    """Integers that e4m3 holds exactly, and with them every sum of a few hundred products in float32."""
    generator = torch.Generator().manual_seed(len(shape) + shape[0])
    return torch.randint(-most, most + 1, shape, generator=generator).float().to(DEVICE)


def operands(groups: int, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, weight, scale, bias and residual of a 3x3 convolution to 20 channels, and no rounding in any of it."""
    scale = 2.0 ** whole(20, most=3)
    return whole(2, channels, 7, 5), whole(20, channels // groups, 3, 3), scale, whole(20), whole(2, 20, 7, 5)


@pytest.mark.parametrize("config", CONFIGS, ids=["tile", "halves"])
@pytest.mark.parametrize(("groups", "channels"), [(1, 32), (1, 5), (2, 32)])
@pytest.mark.parametrize("impl", implementations("conv2d"))
def test_whole_numbers_are_exact(
    impl: str, groups: int, channels: int, config: GemmConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of one tap, one over taps, and groups with scales of their own."""
    monkeypatch.setattr(module, "conv_config", lambda *_: config)
    x, weight, scale, bias, residual = operands(groups, channels)
    exact = F.conv2d(x.double(), weight.double(), padding=1, groups=groups) * scale.double()[:, None, None]
    exact = (exact + bias.double()[:, None, None]).relu() + residual.double()
    given = {"bias": bias, "residual": residual, "activation": "relu", "out_dtype": torch.float32}
    y = conv2d(x.to(E4M3), weight.to(E4M3), scale=scale, padding=1, groups=groups, impl=impl, **given)
    assert torch.equal(y.double(), exact)


@pytest.mark.parametrize("impl", implementations("conv2d_statistics"))
def test_statistics_are_of_the_scaled_result(impl: str) -> None:
    x, weight, scale, bias, _ = operands(1, 16)
    y, statistics = conv2d_statistics(x.to(E4M3), weight.to(E4M3), bias, scale=scale, padding=1, block=8, impl=impl)
    assert y.dtype == torch.bfloat16
    assert statistics.dtype == torch.float32
    torch.testing.assert_close(statistics, channel_statistics(y, 8, False), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("impl", implementations("norm_apply"))
def test_a_norm_rounds_to_eight_bits_and_saturates(impl: str, layout: torch.memory_format) -> None:
    """To nearest, ties to even, below the smallest normal number as well; NaN stays NaN."""
    x = torch.linspace(-600, 600, 2 * 3 * 5 * 7, device=DEVICE).view(2, 3, 5, 7) * 2.0**-4
    x[0, 0, 0, :3] = torch.tensor([2.0**-13, 3 * 2.0**-14, torch.nan])
    affine = torch.tensor([0.0, 1.0, 0.0], device=DEVICE)[None, :, None].expand(2, 3, 3)
    y = norm_apply(x.contiguous(memory_format=layout), affine, out_scale=2.0**-4, impl=impl)
    assert y.is_contiguous(memory_format=layout)
    assert torch.equal(y.float().nan_to_num(999.0), (x * 16).clamp(-448, 448).to(E4M3).float().nan_to_num(999.0))


def test_parts_without_eight_bits_have_no_tile_for_them() -> None:
    with pytest.raises(UnavailableError, match=r"conv2d on sm_80 takes .*; found fp8"):
        best_conv_tile(128, 128, 9, "fp8", PARTS["sm_80"])


@pytest.mark.parametrize("target", [target for target, part in PARTS.items() if "fp8" in part.flops])
@pytest.mark.parametrize("channels", [64, 128, 192, 512])
def test_tiles_divide_the_channels_of_image_autoencoders(target: str, channels: int) -> None:
    """Their steps are all of one tap then, and every tile holds whole blocks of statistics."""
    assert channels % best_conv_tile(128, channels, 9, "fp8", PARTS[target]).block_inputs == 0
    assert all(tile.block_rows % 128 == 0 for tile in shipped_tiles("conv2d", target)["fp8"])


def test_eight_bits_have_tiles_of_their_own() -> None:
    device = torch.device("cpu")
    assert conv_config(128, 128, 9, "fp8", device) != conv_config(128, 128, 9, "bf16", device)


def convolved(**changes: object) -> object:
    x, weight, scale, bias, _ = operands(1, 16)
    given = {"x": x.to(E4M3), "weight": weight.to(E4M3), "bias": bias, "scale": scale, "padding": 1, **changes}
    return conv2d(**given)  # type: ignore[arg-type]


def applied(**changes: object) -> object:
    given = {"x": whole(2, 3, 4, 4), "affine": torch.zeros(2, 3, 3, device=DEVICE), "out_scale": 1.0, **changes}
    return norm_apply(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "changes", "error", "message"),
    [
        (convolved, {"scale": None}, TypeError, "scale must be a float32 tensor where x is .* found None"),
        (convolved, {"scale": torch.zeros(3)}, ValueError, r"scale must have shape \(20,\); found \(3,\)"),
        (convolved, {"x": whole(2, 16, 7, 5)}, TypeError, "weight must be float32"),
        (convolved, {"weight": whole(20, 16, 3, 3)}, TypeError, "weight must have x's dtype, torch.float8_e4m3fn"),
        (convolved, {"out_dtype": torch.uint8}, TypeError, "out_dtype must be float32"),
        (
            convolved,
            {"residual": whole(2, 20, 7, 5)},
            TypeError,
            "residual must have the output's dtype, torch.bfloat16",
        ),
        (
            lambda **_: conv2d(whole(2, 4, 4, 4), whole(3, 4, 1, 1), scale=torch.ones(3)),
            {},
            ValueError,
            "scale must be None unless x is torch.float8_e4m3fn",
        ),
        (
            lambda **_: conv_image(whole(2, 4, 4, 4).to(E4M3), whole(3, 4, 1, 1).to(E4M3)),
            {},
            TypeError,
            "x must be float32",
        ),
        (applied, {"out_scale": 0.0}, ValueError, "out_scale must be a positive finite number or None; found 0.0"),
        (applied, {"out_scale": float("inf")}, ValueError, "out_scale must be .* found inf"),
    ],
)
def test_bad_arguments_are_refused(call: Any, changes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(**changes)
