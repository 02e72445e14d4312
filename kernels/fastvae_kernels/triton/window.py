"""The windows of convolutions, plain and transposed, as constants that one kernel reads both from."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from math import gcd
from typing import NamedTuple

import triton
import triton.language as tl

__all__ = ["Axis", "conv_axis", "phase_of", "phases", "transposed_axis"]


class Axis(NamedTuple):
    """The window along one axis: constants of a kernel.

    Output `first + step * j` of a phase reads, at its tap number m, the input at `stride * j + start + dilation * m`
    through the weight's tap `tap + tap_step * m`. first, start and tap follow from the phase as `phase_of` says:
    first = (phase - origin) mod step; tap is the least one that the phase sees, inverse * phase / gap mod tap_step,
    where gap divides the phase and none otherwise. A plain convolution has one phase, and steps of 1.
    """

    kernel: int
    step: int
    stride: int
    dilation: int
    origin: int
    tap_step: int
    gap: int
    inverse: int


def conv_axis(kernel: int, stride: int, dilation: int, before: int) -> Axis:
    """A plain convolution's axis, `before` zeros in front of the input."""
    return Axis(kernel, 1, stride, dilation, -before, 1, 1, 0)


def transposed_axis(kernel: int, stride: int, dilation: int, padding: int) -> Axis:
    """A transposed convolution's: output y receives input i through tap k where y + padding = stride i + dilation k."""
    gap = gcd(stride, dilation)
    tap_step = stride // gap
    inverse = pow(dilation // gap, -1, tap_step) if tap_step > 1 else 0
    return Axis(kernel, stride, 1, -(dilation // gap), padding, tap_step, gap, inverse)


def phases(vertical: Axis, horizontal: Axis) -> int:
    """How many plain convolutions the window amounts to."""
    return vertical.step * horizontal.step


@triton.jit
def phase_of(phase, outputs, AXIS: tl.constexpr):
    """(first output, number of outputs, first tap, number of taps, where the first output's first tap reads)."""
    KERNEL: tl.constexpr = AXIS[0]
    STEP: tl.constexpr = AXIS[1]
    DILATION: tl.constexpr = AXIS[3]
    ORIGIN: tl.constexpr = AXIS[4]
    TAP_STEP: tl.constexpr = AXIS[5]
    GAP: tl.constexpr = AXIS[6]
    INVERSE: tl.constexpr = AXIS[7]
    SHIFT: tl.constexpr = -ORIGIN % STEP
    first = (phase + SHIFT) % STEP
    count = (outputs - first + (STEP - 1)) // STEP
    tap = (phase // GAP * INVERSE) % TAP_STEP
    taps = tl.where(phase % GAP == 0, (KERNEL - tap + (TAP_STEP - 1)) // TAP_STEP, 0)
    start = (first + ORIGIN + tap * (DILATION * GAP)) // STEP
    return first, count, tap, taps, start
