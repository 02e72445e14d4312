"""`norm_affine`: the statistics of a group merged by one program, in one order, in the reference's three passes."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl
from torch import Tensor

from ..common.rows import fold_sum
from ..tuning import NormConfig, config_for
from .channel_statistics import two_sum
from .gemm import contiguous

__all__ = ["launch", "norm_affine", "norm_affine_kernel"]


@triton.jit
def _sum_over_group(
    at, counts, shape, step, inside, per_entry, mean, left,
    PASS: tl.constexpr, NUMBERS: tl.constexpr, BLOCKS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Over blocks and channels of a group -> [1]. PASS 1: the mean; 2: what `mean` leaves of it; 3: the variance."""
    blocks, pixels, block = shape
    acc = tl.zeros((BLOCKS, GROUP), tl.float32)
    for first in range(0, blocks, BLOCKS):
        index = first + tl.arange(0, BLOCKS).to(tl.int64)
        if counts is not None:
            count = tl.load(counts + index, mask=index < blocks, other=0)
        else:
            count = tl.where(index < blocks, tl.minimum(pixels - index * block, block), 0)
        share = (count.to(tl.float32) * per_entry)[:, None]
        known = (index < blocks)[:, None] & inside
        of_blocks = at + (index * step)[:, None]
        off = tl.load(of_blocks, mask=known, other=0.0)
        if PASS > 1:
            off -= mean
            if NUMBERS == 3:
                off += tl.load(of_blocks + 2, mask=known, other=0.0)
        if PASS == 3:
            off -= left
            acc += tl.load(of_blocks + 1, mask=known, other=0.0) * per_entry
            off *= off
        acc += tl.where(inside, share * off, 0.0)
    return fold_sum(tl.reshape(acc, (BLOCKS * GROUP, 1)))


@triton.jit(do_not_specialize=["blocks", "channels", "groups", "pixels", "block", "eps"])
def norm_affine_kernel(
    statistics,
    counts,
    weight,
    bias,
    out,
    blocks: tl.int64,
    channels: tl.int32,
    groups: tl.int32,
    pixels: tl.int64,
    block: tl.int64,
    eps: tl.float32,
    NUMBERS: tl.constexpr,
    BLOCKS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """statistics [n, blocks, channels, NUMBERS] -> out [n, 3, channels]: mean, scale and shift.

    counts [blocks], or None where blocks have `block` pixels. weight, bias: [channels], or None. A program merges one
    group of a row, of at most GROUP channels, BLOCKS blocks at a time.
    """
    width = channels // groups
    row = (tl.program_id(0) // groups).to(tl.int64)
    first_channel = tl.program_id(0) % groups * width
    lane = tl.arange(0, GROUP)
    inside = (lane < width)[None, :]
    per_entry = 1.0 / (pixels.to(tl.float32) * width.to(tl.float32))
    step = channels.to(tl.int64) * NUMBERS
    at = statistics + row * blocks * step + ((first_channel + lane) * NUMBERS)[None, :]
    shape = (blocks, pixels, block)
    mean = _sum_over_group(at, counts, shape, step, inside, per_entry, 0.0, 0.0, 1, NUMBERS, BLOCKS, GROUP)
    left = _sum_over_group(at, counts, shape, step, inside, per_entry, mean, 0.0, 2, NUMBERS, BLOCKS, GROUP)
    variance = _sum_over_group(at, counts, shape, step, inside, per_entry, mean, left, 3, NUMBERS, BLOCKS, GROUP)
    mean, left = two_sum(mean, left)
    deviation = tl.sqrt_rn(variance + eps)
    channel = first_channel + lane
    known = lane < width
    scale = tl.full((GROUP,), 1.0, tl.float32)
    if weight is not None:
        scale = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    scale = tl.div_rn(scale, tl.broadcast_to(deviation, (GROUP,)))
    shift = -left * scale
    if bias is not None:
        shift += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    to_out = out + row * 3 * channels + channel
    tl.store(to_out, tl.broadcast_to(mean, (GROUP,)), mask=known)
    tl.store(to_out + channels, scale, mask=known)
    tl.store(to_out + 2 * channels, shift, mask=known)


def launch(
    statistics: Tensor,
    counts: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    pixels: int,
    block: int,
    groups: int,
    eps: float,
    *,
    config: NormConfig,
) -> None:
    """Fill out [n, 3, c] of statistics [n, blocks, c, 2 or 3], both float32 and, as all else is, contiguous."""
    n, blocks, channels, numbers = statistics.shape
    group = triton.next_power_of_2(channels // groups)
    norm_affine_kernel[(n * groups,)](
        statistics,
        counts,
        weight,
        bias,
        out,
        blocks,
        channels,
        groups,
        pixels,
        block,
        eps,
        NUMBERS=numbers,
        BLOCKS=min(max(config.merge_elements // group, 1), triton.next_power_of_2(blocks)),
        GROUP=group,
        num_warps=config.num_warps,
    )


def norm_affine(
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pixels: int,
    block: int,
    counts: Tensor | None,
    groups: int,
    eps: float,
) -> Tensor:
    """As the reference defines it."""
    n, _, channels, _ = statistics.shape
    out = statistics.new_empty(n, 3, channels)
    if out.numel():
        config = config_for("group_norm", statistics.device)
        assert isinstance(config, NormConfig)
        operands = (statistics.contiguous(), contiguous(counts), contiguous(weight), contiguous(bias))
        launch(*operands, out, pixels, block, groups, eps, config=config)
    return out
