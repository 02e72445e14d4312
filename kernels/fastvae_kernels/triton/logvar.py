"""`logvar`: what a head emits as a log-variance, in one pass over entries of any shape."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import math

import triton
import triton.language as tl
from torch import Tensor

from ..common.elementary import exp, log, log1p_unit
from ..layout import empty_output, output_format
from ..tuning import PointwiseConfig, config_for
from .gemm import ceil_div, row_unit

__all__ = ["launch", "logvar", "logvar_kernel"]

_TINY = tl.constexpr(1.1754943508222875e-38)


@triton.jit
def _log_softplus(raw):
    """log(log(1 + exp(raw))), which below -40 is raw to within rounding."""
    size = tl.where(raw < -40.0, -40.0, raw)
    softplus = tl.where(size < 0, 0.0, size) + log1p_unit(exp(-tl.abs(size)))
    return tl.where(raw < -40.0, raw, log(softplus))


@triton.jit
def _log_sum(a, b):
    """log(exp(a) + exp(b)) for finite b."""
    return tl.where(a < b, b, a) + log1p_unit(exp(-tl.abs(a - b)))


@triton.jit(do_not_specialize=["units", "eps", "log_eps", "minimum", "maximum"])
def logvar_kernel(
    raw,
    out,
    units: tl.int64,
    eps: tl.float32,
    log_eps: tl.float32,
    minimum: tl.float32,
    maximum: tl.float32,
    PARAMETRIZATION: tl.constexpr,
    ADDS: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """raw and out [units * UNIT] without gaps; an absent bound is an infinity. ADDS: whether eps is positive."""
    count = units * UNIT
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(raw + at, mask=at < count, other=1.0).to(tl.float32)
    if PARAMETRIZATION == "softplus_std":
        y = _log_softplus(y)
        if ADDS:
            y = _log_sum(y, log_eps)
        y = 2.0 * y
    elif PARAMETRIZATION == "variance":
        variance = y + eps
        y = log(tl.where(variance < _TINY, _TINY, variance))
    else:
        tl.static_assert(PARAMETRIZATION == "logvar")
    y = tl.where(y < minimum, minimum, y)
    y = tl.where(y > maximum, maximum, y)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=at < count)


def launch(
    raw: Tensor,
    out: Tensor,
    parametrization: str,
    eps: float,
    minimum: float | None,
    maximum: float | None,
    *,
    config: PointwiseConfig,
) -> None:
    """Fill out, whose memory has no gaps, as raw's, of the same format."""
    count = out.numel()
    unit = row_unit(count)
    logvar_kernel[(ceil_div(count, config.block_elements),)](
        raw,
        out,
        count // unit,
        eps,
        math.log(eps) if eps > 0 else 0.0,
        -math.inf if minimum is None else minimum,
        math.inf if maximum is None else maximum,
        PARAMETRIZATION=parametrization,
        ADDS=eps > 0,
        UNIT=unit,
        BLOCK=config.block_elements,
        num_warps=config.num_warps,
    )


def logvar(raw: Tensor, parametrization: str, eps: float, minimum: float | None, maximum: float | None) -> Tensor:
    """As the reference defines it."""
    out = empty_output(raw, raw.shape)
    if out.numel():
        config = config_for("pointwise", raw.device)
        assert isinstance(config, PointwiseConfig)
        dense = raw.contiguous(memory_format=output_format(raw))
        launch(dense, out, parametrization, eps, minimum, maximum, config=config)
    return out
