"""What tools/gpu_check.py measures of the convolutions: the layers that image decoders spend their time in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from gpu_timing import DEVICE, DRY, DTYPES, Work
from gpu_work import IMPL, Maker, normal
from torch import Tensor

import fastvae_kernels as k
from fastvae_kernels.cost import op_cost
from fastvae_kernels.parts import part_of
from fastvae_kernels.tiling import conv_config, precision_key, predicted_seconds

__all__ = ["convolutions"]

LAST = torch.channels_last
BLOCK = 128
CHECKED = 4
"""Rows of pixels at either end of an image that are held against the reference."""


def image(channels: int, side: int, dtype: torch.dtype) -> Tensor:
    """One image with channels innermost."""
    return normal(1, channels, side, side, dtype=dtype).contiguous(memory_format=LAST)


def layer(first: int, second: int, kernel: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A weight [first, second, kernel, kernel] of usual size with channels innermost, and a bias of the outputs."""
    weight = normal(first, second, kernel, kernel, dtype=dtype, scale=(second * kernel**2) ** -0.5)
    return weight.contiguous(memory_format=LAST), normal(first, dtype=dtype, scale=0.1)


def how(outputs: int, channels: int, taps: int, pixels: int, precision: str) -> dict[str, Any]:
    """The prediction, and the configuration that the row is measured with."""
    key = "fp8" if precision == "fp8" else precision_key(DTYPES[precision], "ieee")
    config = conv_config(outputs, channels, taps, key, DEVICE)
    seconds = predicted_seconds(config, pixels, outputs, taps * channels, key, part_of(DEVICE))
    return {"predicted_seconds": seconds, "details": {"config": str(config)}}


def ends(result: Tensor, expected: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The first and the last rows of pixels, and the image as a whole."""
    parts = (slice(0, CHECKED), slice(-CHECKED, None), slice(None))
    return [(result[:, :, part], expected[:, :, part]) for part in parts]


def conv_work(channels: int, outputs: int, side: int, kernel: int, precision: str) -> Work:
    """`conv2d` with its bias against cuDNN's, both on channels_last."""
    dtype = DTYPES[precision]
    x, (weight, bias) = image(channels, side, dtype), layer(outputs, channels, kernel, dtype)
    padding = kernel // 2

    def fused(impl: str = IMPL) -> Tensor:
        return k.conv2d(x, weight, bias, padding=padding, impl=impl)

    cost = op_cost("conv2d", [x, weight, bias], [x.new_empty(1, outputs, side, side, device="meta")])
    peers = {"eager": lambda: F.conv2d(x, weight, bias, padding=padding)}
    name = f"{kernel}x{kernel} {channels}->{outputs} at {side}"
    told = how(outputs, channels, kernel**2, side**2, precision)
    return Work(
        "conv2d",
        name,
        precision,
        fused,
        peers,
        lambda: ends(fused(), fused("reference")),
        cost.flops,
        cost.bytes,
        **told,
    )


def eight_bits_work(channels: int, side: int) -> Work:
    """`conv2d` of 8-bit operands, as a group norm leaves an image, against cuDNN's in bf16."""
    x, (weight, bias) = image(channels, side, torch.bfloat16), layer(channels, channels, 3, torch.bfloat16)
    rows, scale = k.quantize_rows(weight.permute(0, 2, 3, 1).flatten(1))
    small = rows.view(channels, 3, 3, channels).permute(0, 3, 1, 2)
    pixels = x.to(torch.float8_e4m3fn)

    def fused(impl: str = IMPL) -> Tensor:
        return k.conv2d(pixels, small, bias, scale=scale, padding=1, impl=impl)

    cost = op_cost("conv2d", [pixels, small, bias], [x.new_empty(x.shape, device="meta")])
    peers = {"eager bf16": lambda: F.conv2d(x, weight, bias, padding=1)}
    told = how(channels, channels, 9, side**2, "fp8")
    name = f"3x3 {channels}->{channels} at {side}"
    return Work(
        "conv2d", name, "fp8", fused, peers, lambda: ends(fused(), fused("reference")), cost.flops, cost.bytes, **told
    )


def statistics_work(channels: int, side: int, precision: str) -> Work:
    """`conv2d_statistics` with a residual against a convolution, a sum and the moments of its result."""
    dtype = DTYPES[precision]
    x, (weight, bias) = image(channels, side, dtype), layer(channels, channels, 3, dtype)
    residual = image(channels, side, dtype)

    def fused(impl: str = IMPL) -> tuple[Tensor, Tensor]:
        return k.conv2d_statistics(x, weight, bias, residual=residual, padding=1, block=BLOCK, impl=impl)

    def eager() -> tuple[Tensor, Tensor, Tensor]:
        y = F.conv2d(x, weight, bias, padding=1) + residual
        variance, mean = torch.var_mean(y.float(), (2, 3))
        return y, mean, variance

    def check() -> list[tuple[Tensor, Tensor]]:
        (y, statistics), (expected, known) = fused(), fused("reference")
        return [*ends(y, expected), (statistics[..., 1], known[..., 1])]

    y = x.new_empty(1, channels, side, side, device="meta")
    found = torch.empty(1, -(-(side**2) // BLOCK), channels, 2, device="meta")
    cost = op_cost("conv2d_statistics", [x, weight, bias, residual], [y, found])
    told = how(channels, channels, 9, side**2, precision)
    name = f"3x3 {channels}->{channels} at {side}"
    peers = {"eager": eager}
    return Work("conv2d_statistics", name, precision, fused, peers, check, cost.flops, cost.bytes, **told)


def upsampling_work(channels: int, side: int, precision: str) -> Work:
    """`conv_transpose2d` k4 s2, which upsampling and a 3x3 convolution amount to, against cuDNN's and against those."""
    dtype = DTYPES[precision]
    x, (weight, bias) = image(channels, side, dtype), layer(channels, channels, 4, dtype)
    kernel, (plain, _) = weight.transpose(0, 1), layer(channels, channels, 3, dtype)

    def fused(impl: str = IMPL) -> Tensor:
        return k.conv_transpose2d(x, kernel, bias, stride=2, padding=1, impl=impl)

    def upsampled() -> Tensor:
        return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), plain, bias, padding=1)

    cost = op_cost("conv_transpose2d", [x, kernel, bias], [x.new_empty(1, channels, 2 * side, 2 * side, device="meta")])
    peers = {
        "eager": lambda: F.conv_transpose2d(x, kernel, bias, stride=2, padding=1),
        "eager upsampled": upsampled,
    }
    told = how(channels, channels, 4, 4 * side**2, precision)
    name = f"4x4 stride 2 {channels}->{channels} at {side}"
    return Work(
        "conv_transpose2d",
        name,
        precision,
        fused,
        peers,
        lambda: ends(fused(), fused("reference")),
        cost.flops,
        cost.bytes,
        **told,
    )


def convolutions() -> Iterator[tuple[str, Maker]]:
    """Every measurement by name, the most telling first; rehearsing, of a few channels and pixels."""
    scale, small = (16, 128) if DRY else (1, 1)
    for channels, side in ((256, 512), (128, 1024), (512, 128)):
        c, s = channels // scale, max(side // small, 3)
        yield f"conv2d-{channels}-{side}", lambda c=c, s=s: conv_work(c, c, s, 3, "bf16")
    c, s = 512 // scale, max(256 // small, 3)
    yield "conv_transpose2d-512-256", lambda: upsampling_work(c, s, "bf16")
    yield "conv2d_statistics-256-512", lambda: statistics_work(256 // scale, max(512 // small, 3), "bf16")
    yield "conv2d-fp8-256-512", lambda: eight_bits_work(256 // scale, max(512 // small, 3))
    yield "conv2d-pointwise", lambda: conv_work(c, c, max(128 // small, 3), 1, "bf16")
    yield "conv2d-first", lambda: conv_work(3, 128 // scale, max(1024 // small, 3), 3, "bf16")
    yield "conv2d-last", lambda: conv_work(128 // scale, 3, max(1024 // small, 3), 3, "bf16")
    yield "conv2d-ieee", lambda: conv_work(128 // scale, 128 // scale, max(256 // small, 3), 3, "ieee")
