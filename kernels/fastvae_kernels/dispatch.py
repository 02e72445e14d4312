"""Which implementation of an op runs. A named one never falls back; "auto" takes the fastest that can run."""

import importlib.util
import os
from functools import cache, lru_cache

import torch

from .cpu.library import why_not
from .errors import UnavailableError

__all__ = ["implementations", "resolve_impl"]

_IMPLEMENTATIONS: dict[str, tuple[str, ...]] = {
    "sample_normal": ("reference", "cpu", "triton"),
    "sample_uniform": ("reference", "cpu", "triton"),
    "reparameterize": ("reference", "cpu", "triton"),
    "linear": ("reference", "triton"),
    "linear_prior": ("reference", "triton"),
    "quantize_rows": ("reference", "triton"),
    "gaussian_head": ("reference", "triton"),
    "bottleneck": ("reference", "triton"),
    "conv2d": ("reference", "library", "triton"),
    "conv2d_statistics": ("reference", "library", "triton"),
    "conv_image": ("reference", "triton"),
    "conv_score": ("reference", "triton"),
    "conv_transpose2d": ("reference", "library", "triton"),
    "channel_statistics": ("reference", "triton"),
    "norm_affine": ("reference", "triton"),
    "norm_apply": ("reference", "triton"),
    "group_norm": ("reference", "triton"),
    "affine": ("reference", "triton"),
    "logvar": ("reference", "triton"),
    "to_bytes": ("reference", "triton"),
    "attention": ("reference", "library", "triton"),
    "bernoulli_nll": ("reference", "triton"),
    "gaussian_nll": ("reference", "triton"),
    "squared_error": ("reference", "triton"),
    "laplace_nll": ("reference", "triton"),
    "student_t_nll": ("reference", "triton"),
    "continuous_bernoulli_nll": ("reference", "triton"),
    "poisson_nll": ("reference", "triton"),
    "negative_binomial_nll": ("reference", "triton"),
    "categorical_nll": ("reference", "triton"),
    "linear_score": ("reference", "triton"),
    "elbo": ("reference", "triton"),
    "elbo_loss": ("reference", "cpu", "triton"),
}


def implementations(op: str) -> tuple[str, ...]:
    """The implementations that exist of `op`, runnable here or not.

    Raises ValueError if there is no such op.
    """
    if op not in _IMPLEMENTATIONS:
        raise ValueError(f"op must be one of {', '.join(_IMPLEMENTATIONS)}; found {op!r}")
    return _IMPLEMENTATIONS[op]


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _has_e4m3(device: torch.device) -> bool:
    """Whether a CUDA device multiplies and converts float8_e4m3fn: NVIDIA's from compute capability 8.9 on."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 9)


def _why_not_triton(op: str, device: torch.device, dtype: torch.dtype | None, interpreting: bool) -> str | None:
    """Why a Triton kernel cannot run on these, or None if it can."""
    if dtype == torch.float64:
        return "it takes torch.float32, torch.bfloat16 or torch.float16; found torch.float64"
    if not _has_triton():
        return "the package triton is not installed"
    interpreted = device.type == "cpu" and interpreting
    if device.type != "cuda" and not interpreted:
        return f"it takes CUDA tensors, or CPU ones under TRITON_INTERPRET=1; found device {str(device)!r}"
    eight_bits = dtype == torch.float8_e4m3fn or op == "quantize_rows"
    if eight_bits and not interpreted and not _has_e4m3(device):
        return f"float8_e4m3fn needs NVIDIA compute capability 8.9; found {torch.cuda.get_device_name(device)}"
    return None


def _why_not_cpu(op: str, device: torch.device, dtype: torch.dtype | None) -> str | None:
    """Why the compiled CPU kernels cannot run on these, or None if they can."""
    if device.type != "cpu":
        return f"it takes CPU tensors; found device {str(device)!r}"
    if op == "elbo_loss" and dtype == torch.float64:
        return "it takes torch.float32, torch.bfloat16 or torch.float16; found torch.float64"
    return why_not()


@lru_cache(maxsize=1024)
def _resolve(op: str, impl: str, device: torch.device | str, dtype: torch.dtype | None, interpreting: bool) -> str:
    accepted = implementations(op)
    device = torch.device(device)
    if impl == "auto":
        if "cpu" in accepted and _why_not_cpu(op, device, dtype) is None:
            return "cpu"
        can = device.type == "cuda" and "triton" in accepted
        return "triton" if can and _why_not_triton(op, device, dtype, interpreting) is None else "reference"
    if impl not in accepted:
        names = ", ".join(repr(name) for name in ("auto", *accepted))
        raise UnavailableError(f"impl of {op} must be one of {names}; found {impl!r}")
    if impl == "triton" and (reason := _why_not_triton(op, device, dtype, interpreting)):
        raise UnavailableError(f"impl 'triton' of {op} cannot run: {reason}; impl 'reference' can")
    if impl == "cpu" and (reason := _why_not_cpu(op, device, dtype)):
        raise UnavailableError(f"impl 'cpu' of {op} cannot run: {reason}; impl 'reference' can")
    return impl


def resolve_impl(op: str, impl: str, device: torch.device | str, dtype: torch.dtype | None = None) -> str:
    """The name of the implementation that `impl` means for `op` on tensors of this device and dtype.

    "auto" is "triton" on a CUDA device where `op` has such a kernel that takes `dtype`, "cpu" on the CPU where `op` has
    that, compiled, for `dtype`, else "reference". "library", PyTorch's own op in the operands' dtype, is only taken by
    name.
    Raises UnavailableError for an unknown name and for a named implementation that cannot run, ValueError
    for an unknown op.
    """
    interpreting = impl != "auto" and os.environ.get("TRITON_INTERPRET") == "1"  # "auto" on a CPU is never Triton
    return _resolve(op, impl, device, dtype, interpreting)
