"""The random ops: noise as a function of seed, row, dimension and stream, and the posterior draw built on it."""

import torch
from torch import Tensor

from .. import cpu, reference
from ..checks import check_floating, check_int, check_like, check_noise, check_shape
from ..dispatch import resolve_impl
from .registration import register

__all__ = ["reparameterize", "sample_normal", "sample_uniform"]


def _check_sample(n: int, dim: int, dtype: torch.dtype) -> None:
    check_int("n", n, 0)
    check_int("dim", dim, 0, 2**34)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise TypeError(f"dtype must be float32, float64, bfloat16 or float16; found {dtype}")


def _empty_sample(n: int, dim: int, samples: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty((n, dim) if samples is None else (samples, n, dim), dtype=dtype, device=device)


@register("sample_normal")
def _sample_normal(
    n: int,
    dim: int,
    seed: int,
    start: int,
    stream: int,
    samples: int | None,
    dtype: torch.dtype,
    device: torch.device,
    impl: str,
) -> Tensor:
    if device.type == "meta":  # no tensor argument sends the dispatcher to the shape rule
        return _empty_sample(n, dim, samples, dtype, device)
    chosen = resolve_impl("sample_normal", impl, device, dtype)
    if chosen == "triton":
        from ..triton.sample_normal import sample_normal as implementation
    else:
        implementation = cpu.sample_normal if chosen == "cpu" else reference.sample_normal
    return implementation(n, dim, seed, start, stream, samples, dtype, device)


@register("sample_uniform")
def _sample_uniform(
    n: int,
    dim: int,
    seed: int,
    start: int,
    stream: int,
    samples: int | None,
    dtype: torch.dtype,
    device: torch.device,
    impl: str,
) -> Tensor:
    if device.type == "meta":  # no tensor argument sends the dispatcher to the shape rule
        return _empty_sample(n, dim, samples, dtype, device)
    chosen = resolve_impl("sample_uniform", impl, device, dtype)
    if chosen == "triton":
        from ..triton.sample_normal import sample_uniform as implementation
    else:
        implementation = cpu.sample_uniform if chosen == "cpu" else reference.sample_uniform
    return implementation(n, dim, seed, start, stream, samples, dtype, device)


@_sample_normal.register_fake
@_sample_uniform.register_fake
def _(
    n: int,
    dim: int,
    seed: int,
    start: int,
    stream: int,
    samples: int | None,
    dtype: torch.dtype,
    device: torch.device,
    impl: str,
) -> Tensor:
    return _empty_sample(n, dim, samples, dtype, device)


def sample_normal(
    n: int,
    dim: int,
    *,
    seed: int,
    start: int = 0,
    stream: int = 0,
    samples: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    impl: str = "auto",
) -> Tensor:
    """Standard normals for rows start..start+n-1: the same numbers however they are asked for.

    Returns [n, dim], or [samples, n, dim] if `samples` is an int. Philox4x32-10 with key `seed`
    (0 <= seed < 2**64) and counter (row low, row high, dimension // 4, stream + sample), then Box-Muller.
    dtypes narrower than float32 hold the float32 normals rounded; float64 ones are computed in float64 from
    the same 32-bit words.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    _check_sample(n, dim, dtype)
    seed = check_noise(n, seed, start, stream, samples)
    out: Tensor = _sample_normal(n, dim, seed, start, stream, samples, dtype, torch.device(device), impl)
    return out


def sample_uniform(
    n: int,
    dim: int,
    *,
    seed: int,
    start: int = 0,
    stream: int = 0,
    samples: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    impl: str = "auto",
) -> Tensor:
    """Uniforms in (0, 1) from the same counters as `sample_normal`, one 32-bit word each.

    Returns [n, dim], or [samples, n, dim] if `samples` is an int: (word + 1/2) / 2**32 rounded to float32, at
    most 1 - 2**-24, then cast. A dtype narrower than float32 may round that to 0 or 1.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    _check_sample(n, dim, dtype)
    seed = check_noise(n, seed, start, stream, samples)
    out: Tensor = _sample_uniform(n, dim, seed, start, stream, samples, dtype, torch.device(device), impl)
    return out


@register("reparameterize")
def _reparameterize(
    mean: Tensor, logvar: Tensor, seed: int, start: int, stream: int, samples: int | None, impl: str
) -> tuple[Tensor, Tensor]:
    chosen = resolve_impl("reparameterize", impl, mean.device, mean.dtype)
    if chosen == "triton":
        from ..triton.reparameterize import reparameterize as implementation
    else:
        implementation = cpu.reparameterize if chosen == "cpu" else reference.reparameterize
    return implementation(mean, logvar, seed, start, stream, samples)


@_reparameterize.register_fake
def _(
    mean: Tensor, logvar: Tensor, seed: int, start: int, stream: int, samples: int | None, impl: str
) -> tuple[Tensor, Tensor]:
    z = mean.new_empty(mean.shape if samples is None else (samples, *mean.shape))
    kl_dtype = torch.float64 if mean.dtype == torch.float64 else torch.float32
    return z, mean.new_empty(mean.shape[0], dtype=kl_dtype)


def reparameterize(
    mean: Tensor,
    logvar: Tensor,
    *,
    seed: int,
    start: int = 0,
    stream: int = 0,
    samples: int | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Draw z = mean + exp(logvar / 2) ε, ε = sample_normal(...), and KL(q ‖ N(0, I)) per row.

    mean, logvar: [n, dim], floating, of one dtype. Returns z, [n, dim] or [samples, n, dim] if `samples` is
    an int, in their dtype, and kl [n] in nats, float32 (float64 for float64 inputs). For finite inputs
    neither is ever NaN; exp(logvar / 2) saturates at the largest finite number of the precision computed in.

    Source: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, section 2.4 and appendix B.

    Raises TypeError or ValueError for a bad argument, UnavailableError for an `impl` that cannot run.
    """
    check_floating("mean", mean, 2)
    check_like("logvar", logvar, "mean", mean)
    check_shape("logvar", logvar, mean.shape)
    seed = check_noise(mean.shape[0], seed, start, stream, samples)
    z, kl = _reparameterize(mean, logvar, seed, start, stream, samples, impl)
    return z, kl
