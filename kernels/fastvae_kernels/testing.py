"""How right is right: an independent float64 oracle for every op, and error budgets derived from eager's own.

Shared by the test-suite and by checks on a GPU, so that a kernel is held to the same numbers everywhere.
"""

import math
import struct
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "EAGER",
    "NORMAL_EPSILONS",
    "assert_within",
    "oracle",
    "oracle_normals",
    "oracle_uniforms",
    "philox",
    "roundoff",
    "widen",
]

NORMAL_EPSILONS = 7.0
"""The most by which a float32 normal may differ between implementations, in units of 2**-23 of its value.

Half of log's error for the square root (log: 1 unit on CUDA, 2 on AMD, 4 in NumPy under the interpreter), so
2; an approximate square root 1; the angle 1.5 (an integer rounded, π rounded, their product); a sine or
cosine polynomial 1; the last product 0.5; the reference's own rounding 0.5. That makes 6.5.
"""


def roundoff(dtype: torch.dtype, *, interpreted: bool = False) -> float:
    """The relative error of one rounding to `dtype`: half a unit, a whole one where rounding truncates.

    Triton 3.9's interpreter truncates float32 to bfloat16 (`cast_impl` passes no rounding mode).
    """
    unit = torch.finfo(dtype).eps
    return unit if interpreted and dtype == torch.bfloat16 else unit / 2


def assert_within(
    actual: Tensor, exact: Tensor, eager: Tensor, *, extra: Tensor | float = 0.0, interpreted: bool = False
) -> None:
    """`actual` is as near `exact`, in float64, as low precision allows.

    The budget is twice the largest error of `eager`, a plain evaluation in actual's dtype, plus the rounding
    of the result to that dtype, plus `extra`. Infinities and NaN must be where rounding `exact` puts them.
    Raises AssertionError with the worst element's index, its values and the budget.
    """
    assert actual.shape == exact.shape, f"shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    assert exact.dtype == torch.float64
    rounded = exact.to(actual.dtype)
    odd = ~rounded.isfinite()
    torch.testing.assert_close(actual[odd], rounded[odd], rtol=0, atol=0, equal_nan=True)
    if odd.all():
        return
    own = (eager.double() - exact).abs().masked_fill(odd, 0).nan_to_num(0, 0, 0).max()
    smallest = torch.finfo(actual.dtype).smallest_normal
    budget = 2 * own + roundoff(actual.dtype, interpreted=interpreted) * exact.abs() + smallest + extra
    error = (actual.double() - exact).abs()
    excess = (error / budget).masked_fill(odd, 0)
    worst = int(excess.flatten().nan_to_num(math.inf).argmax())
    if not excess.flatten()[worst] <= 1:
        at = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), exact.shape))
        pick = [float(t.flatten()[worst]) for t in (actual, exact, error, budget)]
        raise AssertionError("at {}: {}, expected {}; error {:.3g}, budget {:.3g}".format(at, *pick))


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 in Python integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (second >> 32) ^ c1 ^ k0,
            second & 0xFFFFFFFF,
            (first >> 32) ^ c3 ^ k1,
            first & 0xFFFFFFFF,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _float32(x: float) -> float:
    return float(struct.unpack("f", struct.pack("f", x))[0])


def _unit(word: int) -> float:
    return _float32(_float32(word) * 2.0**-32 + 2.0**-33)


def _cos_sin(b: int) -> tuple[float, float]:
    """cos and sin of 2 π b / 2**32."""
    quadrant, rest = divmod(b + 2**29, 2**30)
    x = (rest - 2**29) * (math.pi * 2.0**-31)
    c, s = math.cos(x), math.sin(x)
    return ((c, s), (-s, c), (-c, -s), (s, -c))[quadrant % 4]


def _normals(words: tuple[int, ...]) -> list[float]:
    values = []
    for a, b in (words[:2], words[2:]):
        radius = math.sqrt(-2 * math.log(_unit(a)))
        values += [radius * part for part in _cos_sin(b)]
    return values


def _uniforms(words: tuple[int, ...]) -> list[float]:
    return [min(_unit(word), 1 - 2.0**-24) for word in words]


def _noise(kind: Any, n: int, dim: int, seed: int, start: int, stream: int, samples: int | None) -> Tensor:
    key = (seed & 0xFFFFFFFF, seed >> 32)
    values = []
    for k in range(1 if samples is None else samples):
        for i in range(start, start + n):
            row = []
            for quad in range(-(-dim // 4)):
                row += kind(philox((i & 0xFFFFFFFF, i >> 32, quad, stream + k), key))
            values.append(row[:dim])
    out = torch.tensor(values, dtype=torch.float64)
    return out.view(n, dim) if samples is None else out.view(samples, n, dim)


def oracle_normals(
    n: int, dim: int, *, seed: int, start: int = 0, stream: int = 0, samples: int | None = None
) -> Tensor:
    """What `sample_normal` means, in Python integers and floats -> float64."""
    return _noise(_normals, n, dim, seed, start, stream, samples)


def oracle_uniforms(
    n: int, dim: int, *, seed: int, start: int = 0, stream: int = 0, samples: int | None = None
) -> Tensor:
    """What `sample_uniform` means, in Python integers and floats -> float64."""
    return _noise(_uniforms, n, dim, seed, start, stream, samples)


def _activate(y: Tensor, activation: str, alpha: float | None) -> Tensor:
    table: dict[str, Any] = {
        "identity": lambda: y,
        "relu": lambda: F.relu(y),
        "leaky_relu": lambda: F.leaky_relu(y, 0.01 if alpha is None else alpha),
        "elu": lambda: F.elu(y, 1.0 if alpha is None else alpha),
        "selu": lambda: F.selu(y),
        "gelu": lambda: F.gelu(y),
        "gelu_tanh": lambda: F.gelu(y, approximate="tanh"),
        "silu": lambda: F.silu(y),
        "tanh": lambda: torch.tanh(y),
        "sigmoid": lambda: torch.sigmoid(y),
        "softplus": lambda: torch.logaddexp(y, torch.zeros_like(y)),
    }
    out: Tensor = table[activation]()
    return out


def _linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "identity", alpha: float | None = None
) -> Tensor:
    return _activate(F.linear(x, weight, bias), activation, alpha)


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, **kwargs: Any) -> Tensor:
    activation, alpha = kwargs.pop("activation", "identity"), kwargs.pop("alpha", None)
    return _activate(F.conv2d(x, weight, bias, **kwargs), activation, alpha)


def _conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, **kwargs: Any) -> Tensor:
    activation, alpha = kwargs.pop("activation", "identity"), kwargs.pop("alpha", None)
    return _activate(F.conv_transpose2d(x, weight, bias, **kwargs), activation, alpha)


def _affine(
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: str = "identity",
    alpha: float | None = None,
) -> Tensor:
    def along(p: Tensor) -> Tensor:
        return p if p.shape == x.shape[1:] else p.view(-1, *[1] * (x.dim() - 2))

    y = x if scale is None else x * along(scale)
    return _activate(y if shift is None else y + along(shift), activation, alpha).to(x.dtype)


def _logvar(
    raw: Tensor,
    parametrization: str,
    eps: float = 0.0,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Tensor:
    y = raw
    if parametrization == "softplus_std":
        y = 2 * (torch.logaddexp(raw, torch.zeros_like(raw)) + eps).log()
    elif parametrization == "variance":
        y = (raw + eps).log()
    return y if minimum is None and maximum is None else y.clamp(minimum, maximum)


def _samples(parameter: Tensor, x: Tensor) -> Tensor:
    return x.repeat(parameter.shape[0] // x.shape[0], *[1] * (x.dim() - 1))


def _masked_sum(nll: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    kept = nll if mask is None else torch.where(_samples(nll, mask), nll, 0)
    return kept.flatten(1).sum(1)


def _bernoulli_nll(logits: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    data = _samples(logits, x)
    nll = F.binary_cross_entropy_with_logits(logits, data, reduction="none")
    return _masked_sum(nll, x, mask)


def _gaussian_nll(mean: Tensor, logvar: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    nll = 0.5 * (math.log(2 * math.pi) + logvar + (_samples(mean, x) - mean) ** 2 * torch.exp(-logvar))
    return _masked_sum(nll, x, mask)


def _squared_error(output: Tensor, x: Tensor) -> Tensor:
    return ((_samples(output, x) - output) ** 2).flatten(1).sum(1)


EAGER: dict[str, Any] = {
    "linear": _linear,
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "affine": _affine,
    "logvar": _logvar,
    "bernoulli_nll": _bernoulli_nll,
    "gaussian_nll": _gaussian_nll,
    "squared_error": _squared_error,
}
"""A deterministic op as anybody would write it, in whatever precision its tensors have."""


def widen(arguments: dict[str, Any], dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """The arguments with every floating tensor in `dtype`."""
    return {
        name: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for name, v in arguments.items()
    }


def oracle(op: str, arguments: dict[str, Any]) -> Tensor:
    """A deterministic op evaluated in float64 -> float64."""
    out: Tensor = EAGER[op](**widen(arguments))
    return out
